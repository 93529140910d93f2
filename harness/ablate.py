"""One ablation from spec to records: corpus, grid, and the file of which run fills which cell."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Mixer
from harness.corpus import corpus_id, open_corpus
from harness.data_warnings import DataWarning, log, warnings_of
from harness.files import read_json, write_json
from harness.grid import Grid
from harness.plans import recall
from harness.preflight import (
    ablation_path,
    check_buildable,
    check_name,
    check_rows,
    localized,
    make_writable,
    open_mirror,
    plain,
    settle_wandb,
)
from harness.records import SCHEMA
from harness.resolve import num_cores, resolve
from harness.spec import Ablation
from harness.trackers import UNREACHABLE
from harness.worker import Outcome, Progress, Site, Task
from harness.worker import finished as finished_outcome

if TYPE_CHECKING:
    from harness.corpus import TokenStore


@dataclass
class Cells:
    """The ablation's file: arms x seeds, each with its runs and their state."""

    path: Path
    content: dict[str, Any]

    def settle(self, label: str, seed: int, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        cell = next(c for c in self.content["arms"][label]["runs"] if c["seed"] == seed)
        pairs = [{"run_id": run_id, "role": role} for run_id, role in outcome.auxiliary]
        cell |= {"status": outcome.status, "run_id": outcome.run_id, "reason": outcome.reason}
        cell |= {"auxiliary": pairs, "shown": list(outcome.shown)}
        cell["plan_seconds"] = outcome.plan_seconds
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path, self.content)


class Display:
    """What a person sees of a grid; harness/display.py shows it in a terminal."""

    def say(self, text: str) -> None:
        """Show a line about the set-up."""

    def warn(self, warnings: list[DataWarning]) -> None:
        """Show what is to be known of the data, loud warnings loudly."""

    def open(self, total: int, found: int) -> None:
        """Begin a grid of `total` cells, of which `found` were finished before."""

    def progress(self, progress: Progress) -> None:
        """Show where a run is."""

    def outcome(self, task: Task, outcome: Outcome) -> None:
        """Show how a cell ended."""

    def close(self) -> None:
        """End the grid."""


class _Notices:
    """What trackers in worker processes have to say, each thing once."""

    def __init__(self, display: Display) -> None:
        self.told: set[str] = set()
        self._display = display

    def hear(self, text: str) -> None:
        # Every worker says what befalls them all, in words of its own.
        subject = UNREACHABLE if text.startswith(UNREACHABLE) else text
        if subject not in self.told:
            self.told.add(subject)
            self._display.say(text)


@dataclass(frozen=True)
class Summary:
    """How the ablation went."""

    finished: int
    num_failed: int
    interrupted: bool
    wandb_mode: str | None = None
    """W&B's, settled; None where it is no tracker of this ablation."""


def run_ablation(
    ablation: Ablation,
    out: Path,
    jobs: int | None,
    display: Display,
    command: list[str],
    warning: str | None = None,
    wandb_mode: str | None = None,
) -> Summary:
    """Run every (arm, seed) that is not finished yet; SpecError before any compute.

    `warning` is said before the work, and after what cannot be done at all is refused.
    """
    wandb_mode = settle_wandb(ablation.trackers, wandb_mode, display.say)
    mirror = open_mirror(ablation, out, wandb_mode, display.say)
    make_writable(out)
    written, (ablation, model_id) = ablation, localized(ablation, out, display.say)
    text_id = corpus_id(ablation.corpus, out / "corpora")
    check_name(written, out, text_id, model_id)
    if warning is not None:
        display.say(f"warning: {warning}")
    specs = resolve(ablation, text_id, model_id)
    tasks = [Task(label, seed, spec) for (label, seed), spec in specs.items()]
    found = {task: carried for task in tasks if (carried := recall(out, task.spec)) is not None}
    missing = _longest_first([task for task in tasks if task not in found])
    if missing:
        check_buildable(ablation)
    trackers = (ablation.trackers, ablation.name, wandb_mode)
    site = Site(out, ablation.corpus, ablation.checkpoint, *trackers)
    ended = Counter[str]()
    notices = _Notices(display)
    with _grid(site, _num_workers(missing, jobs), display, notices) as grid:
        store = open_corpus(ablation.corpus, out / "corpora", display.say)
        check_rows(ablation, store)
        warnings = warnings_of(ablation, store.manifest)
        log(warnings)
        display.warn(warnings)
        cells = _cells(written, out, store, model_id, shlex.join(command))
        cells.content["warnings"] = [warning.to_json() for warning in warnings]

        def settle(task: Task, outcome: Outcome) -> None:
            cells.settle(task.label, task.seed, outcome)
            display.outcome(task, outcome)
            ended[outcome.status] += 1

        display.open(len(tasks), len(found))
        for task, carried in found.items():
            cells.settle(task.label, task.seed, finished_outcome(carried))
            mirror.replay(out / "runs" / carried.main, ablation.name, task.label)
            for run_id, _ in carried.auxiliary:
                mirror.replay(out / "runs" / run_id, ablation.name, "auxiliary")
        cells.save()
        completed = grid is None or grid.run(missing, settle)
    mode = "offline" if UNREACHABLE in notices.told else wandb_mode
    return Summary(len(found) + ended["finished"], ended["failed"], not completed, mode)


def _num_workers(missing: list[Task], jobs: int | None) -> int:
    """Return how many runs go at once: one on a GPU, on a CPU as many as have their threads."""
    if not missing:
        return 0
    spec = missing[0].spec
    fitting = 1 if spec.device == "cuda" else max(1, num_cores() // spec.threads)
    return min(jobs or fitting, len(missing))


@contextmanager
def _grid(site: Site, workers: int, display: Display, notices: _Notices) -> Iterator[Grid | None]:
    """Yield a grid whose workers are already importing torch, or None where none is needed."""
    if not workers:
        yield None
        return
    grid = Grid(site, workers, display.progress, notices.hear)
    try:
        grid.warm_up()
        yield grid
    finally:
        display.close()
        grid.close()


def _longest_first(tasks: list[Task]) -> list[Task]:
    """Put plans of several runs before single runs, so that no core idles at the end.

    What looks at other arms comes last: those arms' runs are then there, or another worker's.
    """

    def order(task: Task) -> tuple[bool, bool]:
        mixer = task.spec.mixer
        return bool(mixer.others()), type(mixer).plan is Mixer.plan

    return sorted(tasks, key=order)


def _cells(ablation: Ablation, out: Path, store: TokenStore, model_id: str, command: str) -> Cells:
    path, spec = ablation_path(ablation, out), plain(ablation)
    path.parent.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pending: dict[str, Any] = {"status": "pending", "run_id": None, "reason": None}
    pending |= {"auxiliary": [], "shown": [], "plan_seconds": 0.0}
    content = {
        "schema": SCHEMA,
        "name": ablation.name,
        "baseline": ablation.baseline,
        "primary": ablation.primary,
        "targets": ablation.targets,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "seeds": list(ablation.seeds),
        "corpus_id": store.id,
        "model_id": model_id,
        "command": command,
        "spec": spec,
        "created": (read_json(path) or {}).get("created", now),
        "updated": now,
        "arms": {
            label: {**arm, "runs": [{"seed": seed, **pending} for seed in ablation.seeds]}
            for label, arm in spec["arms"].items()
        },
    }
    return Cells(path, content)
