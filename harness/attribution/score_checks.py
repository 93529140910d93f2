"""What a label cannot be scored with, found before any label is scored.

The engine would say the same where it needs the thing, as a ValueError or an ImportError in the
middle of a pass. Here it is one line, and the labels before it have not taken their hours yet.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from harness.attribution.evaluation.baselines import BASELINES
from harness.attribution.score_room import check_room
from harness.attribution.scorers import Chosen, choose
from harness.attribution.store import need_pyarrow
from harness.errors import SpecError
from harness.influence import selection
from harness.influence.ekfac import import_kronfluence
from harness.influence.influcoder.encoder import SCRATCH
from harness.influence.trunk import trunk_of

if TYPE_CHECKING:
    from harness.attribution.opened import Opened
    from harness.attribution.score_job import Job
    from harness.attribution.spec import Attribution
    from harness.view import RunView

LANDMARKS = ("jvp_landmark", "hidden_landmark")
PRECONDITIONED = ("grad_dot", "grad_cos", "directional", *LANDMARKS)  # by Adam, unless told


def check_labels_on(opened: Opened, spec: Attribution) -> None:
    """Refuse what any label cannot be scored with on a run, whatever the queries are; SpecError.

    Who fits factors first would else be told when they are fitted.
    """
    for label in spec.scores.estimators:
        chosen = choose(spec, label)
        check_modules(chosen, opened.view)
        _check_moments(chosen, opened)
        _check_packages(chosen)


def check_job(job: Job) -> None:
    """Refuse a store that is not there yet and cannot be made; SpecError. Nothing is computed."""
    _check_moments(job.chosen, job.opened)
    _check_packages(job.chosen)
    if job.options.store == "parquet":
        need_pyarrow()
    _check_landmarks(job)
    check_room(job)


def check_modules(chosen: Chosen, view: RunView) -> None:
    """Refuse modules, and blocks, that the model does not have."""
    try:
        _look_up(chosen, view)
    except ValueError as error:
        told = str(error).removeprefix("modules: ")
        where = f"scores.estimators.{chosen.label}" if chosen.strategy is None else "factors"
        where += ".modules" if told != str(error) else ""
        raise SpecError(f"{where}: {told}") from None


def missing(label: str, error: ImportError) -> SpecError:
    """Return what the engine says of a package that it lacks, as the user's mistake."""
    return SpecError(f"scores.estimators.{label}: {' '.join(str(error).split())}")


def _look_up(chosen: Chosen, view: RunView) -> None:
    of, model = chosen.estimator, view.model
    if chosen.kind in BASELINES or (chosen.kind == "directional" and not of.modules):
        return  # no modules, or all parameters
    if not of.modules:
        raise ValueError('modules: is empty; give some, such as ["linear"]')
    if chosen.strategy is not None:
        of.uses(view)
        return
    blocks = of.blocks if chosen.kind in LANDMARKS else None
    uses = selection.choose(model, of.modules, of.last_blocks, blocks=blocks)
    if chosen.kind in LANDMARKS:
        trunk_of(model, of.layers, of.blocks)
    if chosen.kind == "influcoder" and any(use.kind == "embedding" for use in uses):
        raise ValueError("modules: takes in an embedding, and adapters go on linear layers alone")


def _check_moments(chosen: Chosen, opened: Opened) -> None:
    """Refuse Adam's preconditioner where the checkpoint is of before the first update."""
    if chosen.kind not in PRECONDITIONED or chosen.estimator.preconditioner != "adam":
        return
    if any("exp_avg_sq" in moments for moments in opened.view.optimizer.state.values()):
        return
    where = f"{opened.folder / opened.checkpoint}, of step {opened.view.step}"
    what = f'preconditioner = "adam" divides by second moments, and {where}, has none'
    fix = 'set preconditioner = "none" there'
    if opened.view.step == 0:
        fix += ', or training.attribute = "last"'
    raise SpecError(f"scores.estimators.{chosen.label}: {what}; {fix}")


def _check_packages(chosen: Chosen) -> None:
    """Refuse an estimator that needs what is not installed."""
    where = f"scores.estimators.{chosen.label}"
    if chosen.kind == "ekfac" and chosen.estimator.route == "kronfluence":
        try:
            import_kronfluence()
        except ImportError as error:
            raise missing(chosen.label, error) from None
    extra, names = _needed(chosen.kind, chosen.estimator)
    lacking = [name for name in names if find_spec(name) is None]
    if lacking:
        fix = f'pip install "steelyard[{extra}]"'
        raise SpecError(f"{where}: {chosen.kind} needs {', '.join(lacking)}; {fix}")


def _needed(kind: str, of: Any) -> tuple[str, list[str]]:
    """Return the extra, and which of its packages an estimator imports on the way."""
    if kind == "bm25":
        return "evaluation", ["bm25s"]
    if kind != "influcoder":
        return "", []
    names = ["peft"]
    names += ["sklearn"] if of.holdout else []  # the bag of words that it has to beat
    names += ["sentence_transformers"] if of.encoder != SCRATCH else []
    return "influcoder", names


def _check_landmarks(job: Job) -> None:
    if job.chosen.kind not in LANDMARKS:
        return
    wanted, there = job.chosen.estimator.landmarks, min(job.options.fit_rows, len(job.whole))
    if wanted > there:
        fix = "ask for fewer, or raise scores.fit_rows"
        where = f"scores.estimators.{job.chosen.label}.landmarks"
        raise SpecError(f"{where}: {wanted}, of {there} rows to learn from; {fix}")
