"""`steelyard attribute ...`: what each command does, and what it prints."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from harness import attribution_forms as forms
from harness.attribution.places import Places
from harness.attribution.spec import Attribution
from harness.errors import SpecError
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


def carry_out(command: forms.Command, overrides: Sequence[str], prog: str, console: Console) -> int:
    """Do what a form of `steelyard attribute` asks; return the exit code."""
    spec = load_attribution(command.spec, overrides, prog)
    from harness.attribution.score_job import check_labels
    from harness.loop import InterruptedRunError
    from harness.queued import RunFailedError

    check_labels(spec)
    try:
        _do(Desk(spec, command.out, console), command)
    except (KeyboardInterrupt, InterruptedRunError):
        raise KeyboardInterrupt from None  # the command line says that all is saved
    except (RunFailedError, FloatingPointError) as error:
        print(f"steelyard: {error}", file=sys.stderr)
        return 1
    return 0


def _do(desk: Desk, asked: forms.Command) -> None:
    """Do one command; every form has its own, which the type checker sees to."""
    match asked:
        case forms.AttributeTrain():
            _train(desk, asked)
        case forms.AttributeFit():
            _fit(desk, asked)
        case forms.AttributeInspect():
            _inspect(desk, asked)
        case forms.AttributeScore():
            _score(desk, asked)
        case forms.AttributeTop():
            _top(desk, asked)
        case forms.AttributeSelect():
            _select(desk, asked)
        case forms.AttributeEvaluate():
            _evaluate(desk, asked)
        case forms.AttributeRun():
            _run(desk, asked)
        case _:
            assert_never(asked)


def _train(desk: Desk, asked: forms.AttributeTrain) -> None:
    from harness.attribution.train import train

    chosen = train(desk.spec, desk.places, desk.progress, desk.say, asked.wandb_mode)
    curves = importlib.import_module("reports.attribution.curves")
    for text in curves.readings(chosen.folder):
        desk.say(f"- {text}")
    looks, name = desk.places.looks(chosen.folder.name), desk.spec.name
    page = curves.write(chosen.folder, looks, desk.places.pages, name, chosen.step)
    loss = "" if chosen.validation_loss is None else f", validation {chosen.validation_loss:.3f}"
    desk.say(f"attributed: step {chosen.step}{loss} of {chosen.folder}")
    desk.show("curves", page)


def _fit(desk: Desk, asked: forms.AttributeFit) -> None:
    """Fit what the spec's [factors] says, and other strategies that its estimators need."""
    from harness.attribution.fit import fit
    from harness.attribution.health_table import health_table
    from harness.attribution.scorers import needed_factors

    choice = asked.on_nonfinite
    tables = needed_factors(desk.spec) or [desk.spec.factors]
    strategy = desk.spec.factors.strategy
    if strategy not in (table.strategy for table in tables):
        fix = f'add "{strategy}" to scores.estimators'
        desk.say(f"note: no estimator uses factors.strategy = {strategy!r}, so it is left; {fix}")
    for table in tables:
        factors = table if choice is None else replace(table, on_nonfinite=choice)
        folder = fit(desk.opened, desk.pool, factors, desk.places, desk.progress, desk.say)
        desk.console.print(health_table(folder, desk.console.width))
        desk.say(f"factors: {folder}")


def _inspect(desk: Desk, asked: forms.AttributeInspect) -> None:
    from harness.attribution.fit_key import key, refuse_absent
    from harness.attribution.scorers import needed_factors

    inspect = importlib.import_module("reports.attribution.inspect")
    for factors in needed_factors(desk.spec) or [desk.spec.factors]:
        if factors.strategy == "identity":
            desk.say("strategy identity has no curvature to inspect")
            continue
        refuse_absent(desk.places, desk.opened, desk.pool, factors)
        name = key(desk.opened, desk.pool, factors)
        folder, out = desk.places.factors(name), desk.places.inspection(name)
        page = inspect.write(folder, out, asked.layers)
        for line in inspect.readings(page):
            desk.say(f"- {line}")
        desk.show(f"{factors.strategy} factors in pictures", page)


def _score(desk: Desk, asked: forms.AttributeScore) -> None:
    from harness.attribution.score import score
    from harness.attribution.store import ScoreStore, export_npz

    choice, spec = asked.on_nonfinite, desk.spec
    if choice is not None:
        spec = replace(spec, scores=replace(spec.scores, on_nonfinite=choice))
    what = (desk.opened, desk.pool, desk.queries, spec)
    for label in spec.scores.estimators:
        folder = score(*what, label, desk.places, desk.progress, desk.say)
        desk.say(f"scores of {label}: {folder}")
        if asked.npz:
            path = desk.places.pages / f"{label}-{folder.name}.npz"
            export_npz(ScoreStore.open(folder), path)
            desk.say(f"as one array: {path}")


def _top(desk: Desk, asked: forms.AttributeTop) -> None:
    tables = importlib.import_module("reports.attribution.top_table")
    stores = desk.stores(asked.estimator)
    k = min(asked.k, stores[0].about["num_rows"])
    if k < 1:
        raise SpecError(f"--k: {k}; show at least one row at either end")
    desk.console.print(tables.table(stores[0], k, asked.queries))
    top = importlib.import_module("reports.attribution.top")
    before = top.shown(desk.places.pages)
    page = top.write(stores, desk.places.pages, k)
    if before not in ([], top.shown(desk.places.pages)):
        desk.say(
            "note: the page replaces one of other scores; `top` with their spec writes it anew"
        )
    desk.show("top rows", page)


def _select(desk: Desk, asked: forms.AttributeSelect) -> None:
    from harness.attribution.select import Selecting, select

    given = {
        "keep": asked.keep,
        "drop": asked.drop,
        "weights": asked.weights,
        "tiers": asked.tiers,
        "queries": asked.queries,
        "unwanted": asked.unwanted,
    }
    options = build(Selecting, given, "attribute select")
    first = next(iter(desk.spec.scores.estimators))
    counts = select(desk.stores(asked.estimator or (first,)), options, asked.to, desk.opened)
    desk.say(f"{counts['kept']} of {counts['rows']} rows kept, {counts['scored']} had a score")
    for domain in counts["emptied_domains"]:
        desk.say(f"no row of domain {domain!r} is left")
    for path in counts["files"]:
        desk.say(f"rows: {path}")
    desk.say(f"domains for the next spec: {counts['spec']}")


def _evaluate(desk: Desk, asked: forms.AttributeEvaluate) -> None:
    from harness.attribution.evaluation.parts import evaluate

    spec, options = desk.spec, desk.spec.evaluate
    runs = (*options.runs, *asked.runs)
    spec = replace(spec, evaluate=replace(options, runs=runs))
    what = (desk.opened, desk.pool, desk.queries, spec)
    folder = evaluate(*what, desk.places, desk.progress, desk.say)
    evaluation = importlib.import_module("reports.attribution.evaluation")
    for line in evaluation.summary(folder):
        desk.say(f"- {line}")
    desk.show("evaluation", evaluation.write(folder, desk.places.pages))


def _run(desk: Desk, asked: forms.AttributeRun) -> None:
    """Do every stage as it is without options of its own; what is done already is found."""
    spec, out = asked.spec, asked.out
    stages: dict[str, forms.Command] = {
        "train": forms.AttributeTrain(spec=spec, out=out, wandb_mode=asked.wandb_mode),
        "fit": forms.AttributeFit(spec=spec, out=out),
        "inspect": forms.AttributeInspect(spec=spec, out=out),
        "score": forms.AttributeScore(spec=spec, out=out),
        "top": forms.AttributeTop(spec=spec, out=out),
        "evaluate": forms.AttributeEvaluate(spec=spec, out=out),
    }
    for number, (stage, form) in enumerate(stages.items(), start=1):
        desk.console.rule(f"{number} of {len(stages)}: {stage}", align="left", characters=" ")
        _do(desk, form)
    desk.console.rule("pages", align="left", characters=" ")
    for what, page in desk.pages.items():
        desk.say(f"{what}: {page}")
