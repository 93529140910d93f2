"""Fine-tuning for attribution: an ordinary run of the one loop, and which checkpoint is opened.

The run has one mixer that does nothing, its natural mixture; validation is the corpus's tuning
split, and nothing held out is computed. What was trained is found by its content, like every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.api import Mixer
from harness.attribution.opened import Opened, open_run
from harness.attribution.train_preflight import check_pool, tell_data
from harness.attribution.watching import FineTuning
from harness.corpus import corpus_id, open_corpus
from harness.data_warnings import warnings_of_run
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.identity import to_json
from harness.keeping import BEST
from harness.preflight import (
    check_buildable,
    check_rows,
    localized,
    make_writable,
    open_mirror,
    settle_wandb,
)
from harness.records import (
    CHECKPOINT,
    HEADER,
    RECORDS,
    best_step,
    read_records,
    tuning_losses,
)
from harness.resolve import resolve
from harness.spec import Ablation, Arm, Budget, Evaluation

if TYPE_CHECKING:
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.spec import Attribution
    from harness.corpus import TokenStore
    from harness.spec import RunSpec
    from harness.trackers import Mirror

Say = Callable[[str], None]
ARM = "fine-tuned"
# Keys of a spec that decide which run is trained.
TRAINED = (
    *("run", "seed", "domains", "splits", "tokenizer", "model", "batch", "training"),
    *("optimizer", "device", "precision", "threads", "compile"),
)
# Step 0 stays a choice: the best of the later steps would be a worse model, shown as the best one.
WORSE = (
    "validation was lowest before the first step, so training has only made the model worse, and "
    "what is attributed is the model that it began with; lower optimizer.learning_rate, or set "
    'training.attribute = "last". Adam has no moments at step 0, so grad_cos and its like need '
    'preconditioner = "none" there'
)


@dataclass(frozen=True)
class Chosen:
    """The run that is attributed, and the checkpoint of it."""

    folder: Path
    checkpoint: str
    step: int
    validation_loss: float | None
    """Nats per token at that step; None where the run never looked at its tuning set."""


def train(
    spec: Attribution, places: Places, progress: Progress, say: Say, wandb_mode: str | None = None
) -> Chosen:
    """Train what the spec asks for, or find it; write down which checkpoint is attributed.

    InterruptedRunError where the user stops it, after it has saved itself.
    """
    make_writable(places.out)
    if spec.run is not None:
        folder = Path(spec.run)
        tell_data((read_json(folder / HEADER) or {}).get("warnings", []), say)
    else:
        mode = settle_wandb(spec.trackers, wandb_mode, say)
        mirror = open_mirror(_as_ablation(spec, 1), places.out, mode, say)
        run, store = run_spec(spec, places, say)
        tell_data([w.to_json() for w in warnings_of_run(run, store.manifest)], say)
        places.root.mkdir(parents=True, exist_ok=True)
        folder = _ensure(spec, run, _Desk(store, places, progress, mirror))
    chosen = choose(folder, spec.training.attribute)
    if chosen.step == 0:
        say(f"WARNING: {WORSE}")
    places.root.mkdir(parents=True, exist_ok=True)
    own = spec.run is None  # a folder inside of OUT goes where OUT goes
    where = str(folder.relative_to(places.out) if own else folder.resolve())
    state = {"folder": where, **_told(chosen), "asked": asked(spec)}
    write_json(places.state, state)
    return chosen


def _told(chosen: Chosen) -> dict[str, Any]:
    facts = {"checkpoint": chosen.checkpoint, "step": chosen.step}
    return {**facts, "validation_loss": chosen.validation_loss, "run_id": chosen.folder.name}


def asked(spec: Attribution) -> dict[str, Any]:
    """Return what of a spec decides which run is trained, as plain JSON values."""
    found = {name: to_json(getattr(spec, name)) for name in TRAINED}
    del found["training"]["attribute"], found["training"]["keep_every"]  # of what is there
    return found


def run_spec(spec: Attribution, places: Places, say: Say) -> tuple[RunSpec, TokenStore]:
    """Return the run that the spec asks for, resolved, and its corpus, built if need be."""
    ablation = _as_ablation(spec, 1)
    local, model_id = localized(ablation, places.out, say)
    check_buildable(local)
    corpora = places.out / "corpora"
    text_id = corpus_id(local.corpus, corpora)
    store = open_corpus(local.corpus, corpora, say)
    check_rows(local, store)
    check_pool(spec, store, say)
    steps = spec.training.num_steps(_train_rows(local, store), spec.batch.rows)
    local = replace(local, budget=Budget(steps=steps))
    return resolve(local, text_id, model_id)[ARM, spec.seed], store


def _train_rows(ablation: Ablation, store: TokenStore) -> int:
    from harness.assemble import open_shelf

    shelf = open_shelf(store, "train", store.trained, ablation.batch)
    return sum(shelf.num_rows(domain) for domain in store.trained)


def _as_ablation(spec: Attribution, steps: int) -> Ablation:
    """Return the spec as an ablation of one arm and one seed: what the harness can resolve."""
    looks = spec.training
    return Ablation(
        name=spec.name,
        target=spec.targets,
        seeds=(spec.seed,),
        domains=spec.domains,
        arms={ARM: Arm(method=ARM, settings=Mixer())},
        baseline=ARM,
        splits=spec.splits,
        tokenizer=spec.tokenizer,
        model=spec.model,
        batch=spec.batch,
        budget=Budget(steps=steps),
        optimizer=spec.optimizer,
        evaluation=Evaluation(
            every=looks.validate_every, rows=looks.validation_rows, splits=("tuning",)
        ),
        checkpoint=replace(
            spec.checkpoint,
            keep_best=True,
            keep_every=looks.keep_every or spec.checkpoint.keep_every,
        ),
        trackers=spec.trackers,
        device=spec.device,
        precision=spec.precision,
        threads=spec.threads,
        compile=spec.compile,
    )


class _Desk(NamedTuple):
    """What a run is trained with."""

    store: TokenStore
    places: Places
    progress: Progress
    mirror: Mirror


def _ensure(spec: Attribution, run: RunSpec, desk: _Desk) -> Path:
    """Return the folder of the run, finished: from disk, resumed, or trained now."""
    from harness.runner import Runner

    out, looks = desk.places.out, desk.places.looks(run.run_id)
    with desk.progress.track(run.num_steps, "train") as advance:
        watch = FineTuning(run, spec.name, desk.mirror, looks, advance)
        every = _as_ablation(spec, 1).checkpoint
        with watch.hearing():
            Runner(out, desk.store, every, lambda _: watch).ensure(run)
    return out / "runs" / run.run_id


def choose(folder: Path, which: str) -> Chosen:
    """Return the checkpoint of a finished run that is attributed: the best one, or the last."""
    header = read_json(folder / HEADER)
    if header is None or header["status"] != "finished":
        state = "holds no run" if header is None else f"the run is {header['status']}"
        raise SpecError(f"{folder}: {state}; give OUT/runs/RUN_ID of a finished one")
    losses = tuning_losses(read_records(folder / RECORDS), tuple(header["domains"]))
    last = header["num_steps"]
    best = best_step(losses) if which == "best" else last
    if best is None or best == last:
        return Chosen(folder, CHECKPOINT, last, losses.get(last))
    if not (folder / BEST).exists():
        raise SpecError(
            f"{folder}: its best checkpoint, of step {best}, was not kept; "
            'set training.attribute = "last"'
        )
    return Chosen(folder, BEST, best, losses[best])


def open_chosen(spec: Attribution, places: Places) -> Opened:
    """Open what `train` has chosen; SpecError where it has not run, or the spec has changed."""
    state = read_json(places.state)
    if state is None:
        raise SpecError(f"{places.root}: nothing is trained yet; `steelyard attribute train` first")
    now = asked(spec)
    if "asked" not in state:
        raise SpecError(f"{places.state}: of an earlier version; `steelyard attribute train` again")
    changed = [name for name in now if state["asked"].get(name) != now[name]]
    if changed:
        what = f"was trained with other settings ({', '.join(changed)})"
        fix = "give every stage the same spec and options, or `steelyard attribute train` again"
        raise SpecError(f"{places.state}: {what}; {fix}")
    chosen = choose(places.out / state["folder"], spec.training.attribute)
    opened = open_run(chosen.folder, chosen.checkpoint)
    if opened.view.step != chosen.step:
        raise SpecError(
            f"{chosen.folder / chosen.checkpoint}: is of step {opened.view.step}, and the records "
            f'say that step {chosen.step} is the best; set training.attribute = "last"'
        )
    return opened
