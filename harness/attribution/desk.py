"""What a command of `steelyard attribute` works on: its spec, and the desk that it lies on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.attribution.places import Places
from harness.attribution.spec import Attribution
from harness.specfile import build, override, read_spec

if TYPE_CHECKING:
    from rich.console import Console

    from harness.attribution.opened import Opened
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.store import ScoreStore


def load_attribution(path: Path, overrides: Sequence[str], prog: str) -> Attribution:
    """Return the attribution in `path` with `--a.b=v` overrides; SpecError says what is wrong."""
    spec = build(Attribution, _with_one_length(read_spec(path), overrides), str(path))
    found: Attribution = override(spec, overrides, prog) if overrides else spec
    return found


def _with_one_length(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a file's tables without the epochs, or steps, in whose place overrides give others."""
    parts = (argument.partition("=") for argument in overrides)
    given = {name for name, _, value in parts if value != "None"}
    lengths = {"--training.steps", "--training.epochs"}
    training = raw.get("training")
    if len(given & lengths) != 1 or not isinstance(training, dict):
        return raw
    kept = {key: value for key, value in training.items() if f"--training.{key}" not in lengths}
    return {**raw, "training": kept}


class Desk:
    """What a command works on: an attribution, where it lies, and who is told."""

    def __init__(self, spec: Attribution, out: Path, console: Console) -> None:
        """Take up an attribution below `out`; nothing is opened before it is needed."""
        from harness.attribution.progress import on

        self.spec, self.console = spec, console
        self.places = Places(out, spec.name)
        self.progress: Progress = on(console)
        self.pages: dict[str, Path] = {}

    def say(self, text: str) -> None:
        """Print a line, whole."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def show(self, what: str, page: Path) -> None:
        """Say where a page is, and keep it for the end."""
        self.pages[what] = page
        self.say(f"{what}: {page}")

    @cached_property
    def opened(self) -> Opened:
        """The run that `train` has chosen."""
        from harness.attribution.train import open_chosen

        return open_chosen(self.spec, self.places)

    @cached_property
    def pool(self) -> Pool:
        """Its train rows."""
        return self.opened.pool()

    @cached_property
    def queries(self) -> Queries:
        """The rows whose loss is explained."""
        from harness.attribution.queries import load_queries

        kept = self.places.root / "answers"
        return load_queries(self.opened, self.spec.queries, self.say, kept)

    def stores(self, chosen: Sequence[str] = ()) -> list[ScoreStore]:
        """Return scores, by default every estimator's; SpecError where lacking."""
        from harness.attribution.score import open_scores

        what = (self.opened, self.pool, self.queries, self.spec)
        labels = chosen or list(self.spec.scores.estimators)
        return [open_scores(*what, label, self.places) for label in labels]
