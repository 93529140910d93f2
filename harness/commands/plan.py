"""`steelyard plan`: what a run of the ablation would do, found out without training anything.

A method's plan is a function, so it is executed: what it asks for is written down, and it gets back
a result that has an id at once and reads the rest from disk when it is asked. Where that is not
there yet, the plan stops, and everything behind it is `later`. So no method has to describe its
plan twice; the price is that how many runs lie behind a missing result is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness.api import Mixer
from harness.corpus import corpus_id
from harness.data_warnings import warnings_of
from harness.errors import SpecError
from harness.files import read_json
from harness.plans import recall
from harness.preflight import check_name, localized
from harness.records import CHECKPOINT, HEADER
from harness.resolve import num_fitting, resolve
from harness.shapes import estimate_parameters
from harness.spec import Ablation, Model, RunSpec
from harness.trackers import open_trackers

MAIN = "main"
_STATE_BYTES = 12  # of a parameter in a checkpoint: itself and AdamW's two moments, float32


class ResultMissingError(BaseException):
    """A plan asked for a result that is not there. No Exception: no method may swallow it."""


@dataclass(frozen=True)
class Foreseen:
    """Stands for harness.runner.RunResult: what is known before a run has ended, and the rest."""

    run_id: str
    domains: tuple[str, ...]
    folder: Path

    @property
    def state(self) -> Any:
        """The mixer's state, from disk."""
        return self._result.state

    @property
    def weights(self) -> Any:
        """The weights [S, K] of every step, from disk."""
        return self._result.weights

    @property
    def train_rows(self) -> Any:
        """How many rows each trained domain has, from disk."""
        return self._result.train_rows

    @property
    def probe_losses(self) -> Any:
        """The losses on the fixed probe set, from disk."""
        return self._result.probe_losses

    @property
    def tuning_losses(self) -> Any:
        """The losses on the tuning set, from disk."""
        return self._result.tuning_losses

    @cached_property
    def _result(self) -> Any:
        if _status(self.folder) != "finished" or not (self.folder / CHECKPOINT).exists():
            raise ResultMissingError
        from harness.runner import read_result  # torch, and only where there is something to read

        return read_result(self.folder)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of one cell."""

    label: str
    seed: int
    role: str
    """`main`, or what the method needs it for."""
    run_id: str | None
    """None: it depends on a result that is not there yet."""
    status: str
    """finished, interrupted, failed, running, or new; `later` where there is no id."""
    spec: RunSpec


class Rate(NamedTuple):
    """How fast this machine trains this shape."""

    seconds_per_flop: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What would run, and what it costs. FLOPs are those of training, NaN where unknown."""

    name: str
    cells: list[Planned]
    flops: dict[str, float]
    """By key of `cost_key`: what one run of this shape takes."""
    rate: Rate | None
    jobs: int
    vocab_size: int
    vocab_is_known: bool
    corpus: dict[str, Any] | None
    """Manifest of the built corpus; None where it is not built yet."""
    corpus_bytes: int
    num_parameters: int
    problems: list[str]
    """What `run` would refuse or warn of in this folder, and what fails in a method's plan."""

    @property
    def distinct(self) -> list[Planned]:
        """Every run once: cells that ask for the same training share it."""
        known = {cell.run_id: cell for cell in self.cells if cell.run_id is not None}
        return [*known.values(), *(cell for cell in self.cells if cell.run_id is None)]

    @property
    def missing(self) -> list[Planned]:
        """The runs that are not finished."""
        return [cell for cell in self.distinct if cell.status != "finished"]

    def flops_of(self, cells: list[Planned]) -> float:
        """Return what the runs take together."""
        return sum(self.flops[cost_key(cell.spec)] for cell in cells)

    def checkpoint_bytes(self, cells: list[Planned]) -> int:
        """Return what the runs leave: one checkpoint each, the last."""
        sizes = (_parameters(cell.spec.model, self.vocab_size) for cell in cells)
        return sum(size * _STATE_BYTES for size in sizes)


def forecast(ablation: Ablation, out: Path, jobs: int | None, measure: bool) -> Forecast:
    """Return what `run` would do with the ablation in folder `out`.

    Nothing is trained or built; a GGUF model is converted, since its content decides the ids.
    """
    _check_readable(out)
    written, (ablation, model_id) = ablation, localized(ablation, out, lambda text: None)
    identity = corpus_id(ablation.corpus, out / "corpora")
    problems = _refusals(written, out, identity, model_id)
    manifest = read_json(out / "corpora" / identity / "manifest.json")
    if manifest is not None:
        problems += [warning.text for warning in warnings_of(ablation, manifest)]
    cells = [
        planned
        for (label, seed), spec in resolve(ablation, identity, model_id).items()
        for planned in _foresee(label, seed, spec, out, problems)
    ]
    known = manifest is not None
    vocab_size = manifest["tokenizer"]["vocab_size"] if known else ablation.tokenizer.vocab_size
    headers = _finished_headers(out)
    flops = _flops(cells, headers, vocab_size)
    first = cells[0].spec
    rate = _rate(first, headers)
    if rate is None and measure:
        from harness.commands.calibration import seconds_per_step

        per_step = flops[cost_key(first)] / first.num_steps
        rate = Rate(seconds_per_step(first, vocab_size) / per_step, "three steps timed just now")
    fitting = num_fitting(first)
    return Forecast(
        name=ablation.name,
        cells=cells,
        flops=flops,
        rate=rate,
        jobs=jobs or fitting,
        vocab_size=vocab_size,
        vocab_is_known=known,
        corpus=manifest,
        corpus_bytes=_folder_bytes(out / "corpora" / identity),
        num_parameters=_parameters(ablation.model, vocab_size),
        problems=list(dict.fromkeys(problems)),
    )


def _check_readable(out: Path) -> None:
    """Refuse an output folder that is there and is none, or may not be read."""
    try:
        next(out.iterdir(), None)
    except FileNotFoundError:
        return  # the first run makes it
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"{out}: cannot be read: {reason}; give --out a folder") from None


def cost_key(spec: RunSpec) -> str:
    """Return what decides how much a run computes, as a key."""
    return repr((spec.model, spec.batch, spec.num_steps))


def _refusals(ablation: Ablation, out: Path, text_id: str, model_id: str) -> list[str]:
    found = []
    try:
        open_trackers(ablation.trackers, out, "offline")
    except ValueError as error:
        found.append(str(error))
    try:
        check_name(ablation, out, text_id, model_id)
    except SpecError as error:
        found.append(str(error))
    return found


def _foresee(
    label: str, seed: int, spec: RunSpec, out: Path, problems: list[str]
) -> Iterator[Planned]:
    """Yield the runs of a cell, the main run last."""
    here = {"label": label, "seed": seed, "spec": spec}
    carried = recall(out, spec)
    if carried is not None:
        for run_id, role in carried.auxiliary:
            found = {**here, "spec": spec.auxiliary(role)}
            yield Planned(**found, role=role, run_id=run_id, status="finished")  # type: ignore[arg-type]
        yield Planned(**here, role=MAIN, run_id=carried.main, status="finished")  # type: ignore[arg-type]
        return
    asked = _asked(spec, out, problems)
    for wanted in asked:
        status = _status(out / "runs" / wanted.run_id)
        role = MAIN if wanted.evaluation is not None else wanted.label
        yield Planned(
            label=label, seed=seed, role=role, run_id=wanted.run_id, status=status, spec=wanted
        )
    if not any(wanted.evaluation is not None for wanted in asked):
        yield Planned(**here, role=MAIN, run_id=None, status="later")  # type: ignore[arg-type]


def _asked(spec: RunSpec, out: Path, problems: list[str]) -> list[RunSpec]:
    """Return the distinct runs that the plan asks for, as far as results on disk lead it."""
    if type(spec.mixer).plan is Mixer.plan:
        return [spec]
    asked: dict[str, RunSpec] = {}
    looked_at = _looked_at(spec, out)
    trained = tuple(sorted(name for name, d in spec.corpus.domains.items() if d.train))

    def run(wanted: RunSpec) -> Foreseen:
        if wanted.run_id not in looked_at:
            asked[wanted.run_id] = wanted
        return Foreseen(wanted.run_id, trained, out / "runs" / wanted.run_id)

    try:
        spec.mixer.plan(spec, run)
    except ResultMissingError:
        pass  # the rest is later
    except Exception as error:  # whatever a user's own plan does
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        problems.append(f"arms.{spec.label}: its plan fails: {what}")
    return list(asked.values())


def _looked_at(spec: RunSpec, out: Path) -> set[str]:
    """Return the ids of other arms' runs that the plan looks at, and those look at in turn."""
    found: set[str] = set()
    for mixer in spec.mixer.others():
        other = replace(spec, mixer=mixer)
        found |= {wanted.run_id for wanted in _asked(other, out, [])} | _looked_at(other, out)
    return found


def _status(folder: Path) -> str:
    header = read_json(folder / HEADER)
    return "new" if header is None else str(header["status"])


def _finished_headers(out: Path) -> list[dict[str, Any]]:
    headers = (read_json(path) for path in sorted((out / "runs").glob(f"*/{HEADER}")))
    return [h for h in headers if h is not None and h["status"] == "finished" and h["costs"]]


def _flops(
    cells: list[Planned], headers: list[dict[str, Any]], vocab_size: int
) -> dict[str, float]:
    """Return the training of one run, by cost key."""
    return {
        key: spec.num_steps * _step_flops(spec, headers, vocab_size)
        for key, spec in {cost_key(cell.spec): cell.spec for cell in cells}.items()
    }


def _step_flops(spec: RunSpec, headers: list[dict[str, Any]], vocab_size: int) -> float:
    """Return a training step's operations: as a finished run counted them, or counted now."""
    for header in headers:
        if header["vocab_size"] == vocab_size and _is_alike(spec, header):
            return float(header["costs"]["train"]["flops"]) / int(header["num_steps"])
    try:
        from harness.model import count_row_flops

        row = count_row_flops(spec.model, vocab_size, spec.batch.tokens)
    except Exception:  # a model that transformers cannot build is refused by `run`, with its reason
        return math.nan
    return spec.batch.rows * (row.forward + row.backward)


def _is_alike(spec: RunSpec, header: dict[str, Any]) -> bool:
    """Tell whether a finished run trained this model on batches of this shape."""
    plain = spec.canonical
    return all(header["spec"].get(key) == plain[key] for key in ("model", "batch"))


def _rate(spec: RunSpec, headers: list[dict[str, Any]]) -> Rate | None:
    """Return the seconds per operation of finished runs of this shape, on this kind of machine."""
    same = ("model", "batch", "device", "precision", "threads", "compile")
    plain = spec.canonical
    alike = [h for h in headers if all(h["spec"].get(key) == plain[key] for key in same)]
    seconds = sum(cost["seconds"] for h in alike for cost in h["costs"].values())
    flops = sum(h["costs"]["train"]["flops"] for h in alike)
    if not flops or not seconds:
        return None
    return Rate(seconds / flops, f"{len(alike)} finished run{'s' * (len(alike) > 1)} of this shape")


def _parameters(model: Model, vocab_size: int) -> int:
    return estimate_parameters(model, vocab_size)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
