"""`steelyard attribute ...`: what each command does, and what it prints."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from harness import attribution_forms as forms
from harness.attribution.desk import Desk, load_attribution
from harness.errors import SpecError
from harness.specfile import build

if TYPE_CHECKING:
    from rich.console import Console


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
    from harness.attribution.fit_health import health_of
    from harness.attribution.health_table import health_table
    from harness.attribution.score_checks import check_labels_on
    from harness.attribution.scorers import needed_factors

    choice = asked.on_nonfinite
    check_labels_on(desk.opened, desk.spec)
    tables = needed_factors(desk.spec) or [desk.spec.factors]
    strategy = desk.spec.factors.strategy
    if strategy not in (table.strategy for table in tables):
        fix = f'add "{strategy}" to scores.estimators'
        desk.say(f"note: no estimator uses factors.strategy = {strategy!r}, so it is left; {fix}")
    for table in tables:
        factors = table if choice is None else replace(table, on_nonfinite=choice)
        folder = fit(desk.opened, desk.pool, factors, desk.places, desk.progress, desk.say)
        health = health_of(folder, factors)
        desk.console.print(health_table(health, folder, desk.console.width))
        desk.say(f"factors: {folder}")


def _inspect(desk: Desk, asked: forms.AttributeInspect) -> None:
    from harness.attribution.fit_health import damping_of
    from harness.attribution.fit_key import key, refuse_absent
    from harness.attribution.scorers import needed_factors

    inspect = importlib.import_module("reports.attribution.inspect")
    for factors in needed_factors(desk.spec) or [desk.spec.factors]:
        if factors.strategy == "identity":
            desk.say("strategy identity has no curvature to inspect")
            continue
        refuse_absent(desk.places, desk.opened, desk.pool, factors)
        name = key(desk.opened, desk.pool, factors)
        folder = desk.places.factors(name)
        damping, unit = damping_of(folder, factors)
        out = desk.places.inspection(f"{name}-{damping!r}-{unit}")  # of no other damping
        page = inspect.write(folder, out, asked.layers, (damping, unit))
        for line in inspect.readings(page):
            desk.say(f"- {line}")
        desk.show(f"{factors.strategy} factors in pictures", page)


def _score(desk: Desk, asked: forms.AttributeScore) -> None:
    from harness.attribution.score import check, score
    from harness.attribution.store import ScoreStore, export_npz

    choice, spec = asked.on_nonfinite, desk.spec
    if choice is not None:
        spec = replace(spec, scores=replace(spec.scores, on_nonfinite=choice))
    what = (desk.opened, desk.pool, desk.queries, spec)
    check(*what, desk.places)
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
