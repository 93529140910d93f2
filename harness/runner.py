"""Runs are found by their content: asking for one twice trains it once.

`ensure` returns a finished run, resuming or training it first if need be; a lock on its folder
lets any number of processes ask at the same time. `carry_out` executes a method's plan over it and
keeps the ledger of what the plan asked for, found in the cache or not, because that is what the
method costs.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from harness import checkpoint
from harness.assemble import assemble, measure, train_rows
from harness.data_warnings import warnings_of_run
from harness.files import read_json, write_json
from harness.loop import InterruptedRunError, Loop, Watch
from harness.model import RowFlops, build_model, count_row_flops
from harness.plans import Carried, remember
from harness.queued import RunFailedError
from harness.ranks import Ranks
from harness.records import CHECKPOINT, HEADER, LOCK, RECORDS, SCHEMA, read_records
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
    """Trains runs in one output folder, on one opened corpus."""

    out: Path
    store: TokenStore
    checkpoint: Checkpoint
    watch: Callable[[RunSpec], Watch]
    ranks: Ranks = field(default_factory=Ranks)

    def carry_out(self, spec: RunSpec) -> Carried:
        """Execute the plan of the spec's mixer; the run it returns is the main run."""
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
                carried = self.carry_out(replace(spec, mixer=mixer, label=OTHER_ARM))
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
        ranks = self.ranks
        with _locked(folder, watch) if ranks.is_first else nullcontext():
            if ranks.first(partial(_is_finished, folder)):
                watch.found(folder)
            else:
                self._train(spec, folder, watch)
                ranks.first(lambda: None)  # its header and checkpoint are written
        return read_result(folder)

    def _train(self, spec: RunSpec, folder: Path, watch: Watch) -> None:
        open_model = partial(open_finished, self.out / "runs", source=spec.model.source)
        header = describe_run(spec, self.store) | {"ranks": self.ranks.size}
        if self.ranks.is_first:
            for leftover in (*folder.glob("*.part-*"), *folder.glob("error.txt")):
                leftover.unlink()  # of a process that was killed, or of a try that failed
            write_json(folder / HEADER, header)
        loop = None
        ending: dict[str, Any] = {"status": "interrupted"}
        try:
            loop = assemble(
                spec, self.store, folder, open_model, watch, self.checkpoint, self.ranks
            )
            header["num_parameters"] = sum(p.numel() for p in loop.view.model.parameters())
            watch.begin(header)
            loop.run()
            measured = measure(loop, self.store)
            ending = {"status": "finished", "finished": _now(), **measured}
        except InterruptedRunError:
            raise
        except Exception as error:
            reason = self.ranks.cause(error, one_line(error))
            ending = {"status": "failed", "reason": reason}
            if self.ranks.is_first:
                (folder / "error.txt").write_text(traceback.format_exc())
            raise RunFailedError(reason) from error
        finally:
            header |= _outcome(loop) | ending
            if self.ranks.is_first:
                write_json(folder / HEADER, header)
            watch.end(header)


def _is_finished(folder: Path) -> bool:
    header = read_json(folder / HEADER)
    finished = header is not None and header["status"] == "finished"
    return finished and (folder / CHECKPOINT).exists()


@contextmanager
def _locked(folder: Path, watch: Watch) -> Iterator[None]:
    """Hold the run folder's lock; another process that trains this run is waited for."""
    lock = FileLock(folder / LOCK)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if watch.stop():
                raise InterruptedRunError from None
    try:
        yield
    finally:
        lock.release()


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


def describe_run(spec: RunSpec, store: TokenStore) -> dict[str, Any]:
    """Return the header of a run that is about to start."""
    commit, dirty = git_state()
    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.canonical,
        "status": "running",
        "reason": None,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "targets": spec.targets,
        "num_steps": spec.num_steps,
        "tokens_per_step": spec.batch.rows * spec.batch.tokens,
        "vocab_size": store.vocab_size,
        "corpus_id": store.id,
        "train_rows": train_rows(store, spec),
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "device": spec.device,
        "device_name": _device_name(spec.device),
        "threads": spec.threads,
        "precision": spec.precision,
        "started": _now(),
        "finished": None,
        "costs": {},
        "repetitions": {},
        "warnings": [w.to_json() for w in warnings_of_run(spec, store.manifest)],
    }


def _outcome(loop: Loop | None) -> dict[str, Any]:
    if loop is None:
        return {}
    return {"costs": loop.meter.to_json(), "repetitions": loop.repetitions()}


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    names = ("steelyard", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


@cache
def git_state() -> tuple[str | None, bool]:
    """Return the commit of the checkout that this code lies in, and whether it is changed."""
    here = Path(__file__).parent
    commands = (
        ["git", "ls-files", "--error-unmatch", Path(__file__).name],  # or it is another's checkout
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain"],
    )
    try:
        _, commit, status = (
            subprocess.run(
                c, cwd=here, capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None, False
    return commit.strip(), bool(status.strip())


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return info.partition("model name")[2].partition("\n")[0].strip(" :\t") or platform.machine()


def one_line(error: BaseException) -> str:
    """Return an exception as one line for people."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunFailedError) else f"{type(error).__name__}: {text}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
