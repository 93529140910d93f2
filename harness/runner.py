"""Runs are found by their content: asking for one twice trains it once.

`ensure` returns a finished run, resuming or training it first if need be; a lease on it lets any
number of processes on any number of machines ask at the same time. `carry_out` executes a method's
plan over it and keeps the ledger of what the plan asked for, found in the cache or not, because
that is what the method costs.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import checkpoint
from harness.assemble import assemble, measure
from harness.files import read_json, write_json
from harness.leases import Lease, Leases, TakenError, disk_leases
from harness.loop import InterruptedRunError, Loop, Watch
from harness.model import RowFlops, build_model, count_row_flops
from harness.plans import Carried, last_failure, recall, remember, remember_failure
from harness.queued import RunFailedError
from harness.ranks import Ranks
from harness.records import CHECKPOINT, HEADER, RECORDS, own_copy, read_records
from harness.run_header import describe_run, now
from harness.spec import Checkpoint, Model, RunSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import State
    from harness.corpus import TokenStore


OTHER_ARM = "another arm"  # what a run is for that a plan looks at and another arm pays for


@dataclass(frozen=True)
class RunResult:
    """What a plan may know of a finished run; nothing held out."""

    run_id: str
    domains: tuple[str, ...]  # the K trained domains, in the order of every [K] tensor
    state: State  # the mixer's, after the last step
    weights: Tensor  # [S, K] that each step's batch was drawn with
    train_rows: dict[str, int]  # of each trained domain
    probe_losses: dict[str, float] | None = None  # nats per token, where the spec measures them
    tuning_losses: dict[str, float] | None = None


@dataclass(frozen=True)
class Runner:
    """Trains runs in one output folder, on one opened corpus.

    What another worker is at is waited for; where `waits` is false, it is a TakenError.
    """

    out: Path
    store: TokenStore
    checkpoint: Checkpoint
    watch: Callable[[RunSpec], Watch]
    ranks: Ranks = field(default_factory=Ranks)
    leases: Leases | None = None
    """Of the output folder; by default those that lie in it. The first rank's alone."""
    waits: bool = True

    def carry_out(self, spec: RunSpec, failed_before: str | None = None) -> Carried:
        """Execute the plan of the spec's mixer; the run it returns is the main run.

        Where we wait for nobody the plan is leased as a whole: one that another worker has carried
        out is not begun again, nor one that has failed since the failure `failed_before`.
        """
        if self.waits:  # for each run in turn
            return self._carry_out(spec)
        with self._held("plan", spec, lambda: False):
            done = recall(self.out, spec)
            if done is not None:
                return done
            if last_failure(self.out, spec) not in (None, failed_before):
                raise TakenError("another worker has tried it, and it has failed")
            try:
                return self._carry_out(spec)
            except (InterruptedRunError, TakenError):
                raise
            except Exception as error:  # on record before anybody else can have it
                remember_failure(self.out, spec, one_line(error))
                raise

    def _carry_out(self, spec: RunSpec) -> Carried:
        asked: dict[str, RunSpec] = {}
        shown = self._carry_out_others(spec)
        trained = 0.0

        def run(wanted: RunSpec) -> RunResult:
            nonlocal trained
            start = time.perf_counter()  # hashing is the runner's work, not the method's
            if wanted.run_id in shown:
                wanted = replace(wanted, label=OTHER_ARM)
            elif wanted.measure_tuning and not spec.mixer.tunes:
                raise RuntimeError(
                    f"{type(spec.mixer).__name__}.plan asks for the tuning set; set tunes = True"
                )
            asked[wanted.run_id] = wanted
            result = self.ensure(wanted)
            trained += time.perf_counter() - start
            return result

        own_id, start = spec.run_id, time.perf_counter()
        main = spec.mixer.plan(spec, run)
        seconds = time.perf_counter() - start - trained
        own = {i: wanted for i, wanted in asked.items() if i not in shown or i == main.run_id}
        with_results = [run_id for run_id, wanted in own.items() if wanted.evaluation is not None]
        if with_results != [main.run_id]:
            raise RuntimeError(
                f"{type(spec.mixer).__name__}.plan must ask for one run with evaluation and return "
                "it; make the runs before it by spec.auxiliary(...)"
            )
        if replace(asked[main.run_id], mixer=spec.mixer).run_id != own_id:
            raise RuntimeError(
                f"{type(spec.mixer).__name__}.plan changes the main run beside its mixer; "
                "use replace(spec, mixer=...) for it"
            )
        others = tuple((i, wanted.label) for i, wanted in own.items() if i != main.run_id)
        carried = Carried(
            main.run_id, others, tuple(i for i in shown if i != main.run_id), round(seconds, 6)
        )
        if self.ranks.is_first:
            remember(self.out, spec, carried)
        return carried

    def _carry_out_others(self, spec: RunSpec) -> dict[str, None]:
        """Carry out the arms that the plan of `spec` looks at; return the ids of their runs."""
        found: dict[str, None] = {}
        for mixer in spec.mixer.others():
            try:
                other = replace(spec, mixer=mixer, label=OTHER_ARM)
                carried = self.carry_out(other, last_failure(self.out, other))
            except RunFailedError as error:
                raise RunFailedError(f"the arm that it looks at failed: {error}") from error
            ids = (carried.main, *(run_id for run_id, _ in carried.auxiliary), *carried.shown)
            found |= dict.fromkeys(ids)
        return found

    def ensure(self, spec: RunSpec) -> RunResult:
        """Return the run of `spec`, finished: from disk, resumed, or trained now."""
        folder = self.out / "runs" / spec.run_id
        folder.mkdir(parents=True, exist_ok=True)
        watch = self.watch(spec)
        while not self.ranks.first(partial(_is_finished, folder)):
            try:
                with self._held("run", spec, watch.stop) as lease:
                    if not self.ranks.first(partial(_is_finished, folder)):
                        self._train(spec, folder, watch, lease)
                        self.ranks.first(lambda: None)  # its header and checkpoint are written
                        return read_result(folder)
            except TakenError:
                if not self.waits:
                    raise
        watch.found(folder)
        return read_result(folder)

    @contextmanager
    def _held(self, kind: str, spec: RunSpec, stop: Callable[[], bool]) -> Iterator[Lease | None]:
        """Hold the lease of a run or of a plan; InterruptedRunError where `stop` says so.

        The first rank holds it for all, and the others have none.
        """
        if not self.ranks.is_first:
            yield None
            return
        about = f"{spec.label or 'a run'} seed {spec.seed}"
        try:
            with self._leases.held(f"{kind}-{spec.run_id}", about, self.waits, stop) as lease:
                yield lease
        except TakenError:
            if stop():
                raise InterruptedRunError from None
            raise

    @cached_property
    def _leases(self) -> Leases:
        return self.leases or disk_leases(self.out)

    def _train(self, spec: RunSpec, folder: Path, watch: Watch, lease: Lease | None) -> None:
        if lease is not None and lease.is_inherited:
            own_copy(folder / RECORDS)
        open_model = partial(open_finished, self.out / "runs", source=spec.model.source)
        header = describe_run(spec, self.store) | {"ranks": self.ranks.size}
        if self.ranks.is_first:
            for leftover in (*folder.glob("*.part-*"), *folder.glob("error.txt")):
                leftover.unlink()  # of a process that was killed, or of a try that failed
            write_json(folder / HEADER, header)
        loop = None
        ending: dict[str, Any] = {"status": "interrupted"}
        try:
            guarded: Any = watch if lease is None else _Guarded(watch, lease)
            loop = assemble(
                spec, self.store, folder, open_model, guarded, self.checkpoint, self.ranks
            )
            header["num_parameters"] = sum(p.numel() for p in loop.view.model.parameters())
            watch.begin(header)
            loop.run()
            measured = measure(loop, self.store)
            ending = {"status": "finished", "finished": now(), **measured}
        except InterruptedRunError:
            raise
        except TakenError as error:
            if self.ranks.size == 1:
                raise
            raise RunFailedError(self.ranks.cause(error, one_line(error))) from error
        except Exception as error:
            if lease is not None:
                lease.check()  # or it is the other worker's doing
            reason = self.ranks.cause(error, one_line(error))
            ending = {"status": "failed", "reason": reason}
            if self.ranks.is_first:
                (folder / "error.txt").write_text(traceback.format_exc())
            raise RunFailedError(reason) from error
        finally:
            header |= _outcome(loop) | ending
            if lease is not None and lease.is_ours():
                write_json(folder / HEADER, header)
            watch.end(header)


def _is_finished(folder: Path) -> bool:
    header = read_json(folder / HEADER)
    finished = header is not None and header["status"] == "finished"
    return finished and (folder / CHECKPOINT).exists()


@dataclass(frozen=True)
class _Guarded:
    """A run's watch, asked after every step; the run ends there where its lease has gone."""

    watch: Watch
    lease: Lease

    def stop(self) -> bool:
        self.lease.check()
        return self.watch.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watch, name)


def read_result(folder: Path) -> RunResult:
    """Return what a plan may know of the finished run in `folder`."""
    header = read_json(folder / HEADER)
    saved = checkpoint.load(folder / CHECKPOINT, whole=False)
    assert saved is not None, f"{folder} is finished and has no checkpoint"
    steps = (r["weights"] for r in read_records(folder / RECORDS) if r["kind"] == "step")
    return RunResult(
        run_id=header["run_id"],
        domains=tuple(header["domains"]),
        state=saved["mixer"],
        weights=torch.tensor(list(steps), dtype=torch.float64),
        train_rows=header["train_rows"],
        probe_losses=header.get("probe_losses"),
        tuning_losses=header.get("tuning_losses"),
    )


def open_finished(runs: Path, run_id: str, source: str | None = None) -> tuple[nn.Module, RowFlops]:
    """Return a finished run's model, frozen, and what one of its rows costs.

    `source` is where the asking run found its model: the folder may have moved since.
    """
    header = read_json(runs / run_id / HEADER)
    if header is None or header["status"] != "finished":
        raise ValueError(f"run {run_id} is not finished; ask for it in plan() first")
    spec = header["spec"]
    model_spec, tokens = Model(**spec["model"]), spec["batch"]["tokens"]
    if model_spec.source is not None and source is not None:
        model_spec = replace(model_spec, source=source)
    model = build_model(model_spec, header["vocab_size"], tokens, seed=0, blank=True)
    saved = checkpoint.load(runs / run_id / CHECKPOINT)
    assert saved is not None, f"{run_id} is finished and has no checkpoint"
    model.load_state_dict(saved["model"])
    model.to(spec["device"]).requires_grad_(False)
    return model, count_row_flops(model_spec, header["vocab_size"], tokens)


def _outcome(loop: Loop | None) -> dict[str, Any]:
    if loop is None:
        return {}
    return {"costs": loop.meter.to_json(), "repetitions": loop.repetitions()}


def one_line(error: BaseException) -> str:
    """Return an exception as one line for people."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunFailedError) else f"{type(error).__name__}: {text}"
