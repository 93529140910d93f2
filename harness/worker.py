"""What happens in a worker process: it carries out one (arm, seed) after another.

A worker has a pipe of its own and shares no lock and no queue with others, because a process that
is killed keeps what it holds. It imports torch while it waits for its first task, leaves Ctrl-C to
its parent, and ends when its parent is gone: an orphan would hold a run that nobody waits for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harness.leases import GRACE_SECONDS, Leases, TakenError, open_leases
from harness.plans import Carried
from harness.spec import Checkpoint, RunSpec
from harness.trackers import Mirror, open_trackers

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from harness.ranks import Ranks

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, eq=False)
class Task:
    """One arm at one seed."""

    label: str
    seed: int
    spec: RunSpec
    failed_before: str | None = None
    """Token of the failure that was on record when we came: that one is tried again."""


ELSEWHERE = "elsewhere"
"""Of a task that, or a run of which, another worker is at; it is to be asked for again."""


class Outcome(NamedTuple):
    """How a task ended."""

    status: str  # finished, failed or interrupted; ELSEWHERE in a worker's answer
    run_id: str | None = None
    auxiliary: tuple[tuple[str, str], ...] = ()  # (run id, role)
    reason: str | None = None
    shown: tuple[str, ...] = ()  # run ids of other arms, billed to those
    plan_seconds: float = 0.0  # of the plan's own work beside its runs


def finished(carried: Carried) -> Outcome:
    """Return the outcome of a plan that was carried out."""
    beside = (carried.shown, carried.seconds)
    return Outcome("finished", carried.main, carried.auxiliary, None, *beside)


class Notice(NamedTuple):
    """A line for the user, from a tracker."""

    text: str


class Progress(NamedTuple):
    """What a worker says while it trains."""

    label: str
    seed: int
    role: str
    step: int
    num_steps: int
    loss: float


@dataclass(frozen=True)
class Site:
    """Where workers work, and what they share."""

    out: Path
    checkpoint: Checkpoint
    trackers: tuple[str, ...]
    name: str
    wandb_mode: str | None = None  # as the parent has settled it
    parallel: str = "ddp"  # how a run is spread over ranks, where there are several
    leases: str | None = None  # the database that they are in; in the folder where it is None
    grace: float = GRACE_SECONDS


def work(pipe: Connection, site: Site, stop: Any) -> None:
    """Answer each task that comes over `pipe` with its outcome, until None comes.

    `stop` is a byte in shared memory: once it is set, runs save themselves and end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: _ask_to_stop(stop))  # a scheduler ends whole groups
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    outlet = _Outlet(pipe)
    mirror = open_trackers(site.trackers, site.out, site.wandb_mode, outlet.warn)
    leases = open_leases(site.out, site.leases, site.grace)
    desk = Desk(outlet, site, stop, mirror, leases)
    with suppress(ImportError):  # it comes again, with a place to tell it, at the first task
        _import_everything()
    while (task := pipe.recv()) is not None:
        outlet.send(carry_out(task, desk))


def _ask_to_stop(stop: Any) -> None:
    stop.value = 1


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # as if killed: the run goes on from its last checkpoint


def _import_everything() -> None:
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import harness.runner  # noqa: F401


class _Outlet:
    """The worker's end of the pipe, to which the trackers' threads speak too."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def send(self, message: Outcome | Progress | Notice) -> None:
        with self._lock:
            self._pipe.send(message)

    def warn(self, text: str) -> None:
        with suppress(OSError):  # nobody is there any more to be told
            self.send(Notice(text))


class Outlet(Protocol):
    """Where a worker's messages go."""

    def send(self, message: Outcome | Progress | Notice) -> None:
        """Pass a message on."""


class Desk(NamedTuple):
    """What a worker works with."""

    outlet: Outlet
    site: Site
    stop: Any
    mirror: Mirror
    leases: Leases | None  # None: another rank holds them
    ranks: Ranks | None = None  # None: it is alone


def carry_out(task: Task, desk: Desk) -> Outcome:
    """Return how a task ends."""
    if desk.stop.value and desk.ranks is None:  # ranks stop together, at a step
        return Outcome("interrupted")
    from harness.corpus.store import read_store
    from harness.loop import InterruptedRunError
    from harness.ranks import Ranks
    from harness.runner import Runner, one_line

    site = desk.site
    try:
        # the one that ids were settled with, whatever has become of its sources since
        store = read_store(site.out / "corpora" / task.spec.corpus_id)
        ranks = desk.ranks or Ranks()
        watch = partial(_Watch, desk, task)
        waits = ranks.size > 1  # together
        runner = Runner(site.out, store, site.checkpoint, watch, ranks, desk.leases, waits)
        if task.spec.evaluation is None:  # a single run that no plan has asked for
            return Outcome("finished", runner.ensure(task.spec).run_id)
        carried = runner.carry_out(task.spec, task.failed_before)
    except InterruptedRunError:
        return Outcome("interrupted")
    except TakenError:
        if desk.leases is not None and desk.leases.trouble:
            desk.outlet.send(Notice(desk.leases.trouble))
        return Outcome(ELSEWHERE)
    except (Exception, SystemExit) as error:
        return Outcome("failed", reason=one_line(error))
    return finished(carried)


class _Watch:
    """Sends a run's progress to the parent, a few times a second."""

    def __init__(self, desk: Desk, task: Task, spec: RunSpec) -> None:
        self.desk, self.task, self.spec = desk, task, spec
        self.last = 0.0

    def found(self, folder: Path) -> None:
        self.desk.mirror.replay(folder, self.desk.site.name, self._label())

    def begin(self, header: dict[str, Any]) -> None:
        self.desk.mirror.start(header, self.desk.site.name, self._label())

    def end(self, header: dict[str, Any]) -> None:
        self.desk.mirror.finish(header["status"], header["costs"])

    def _label(self) -> str:
        is_main = self.spec.evaluation is not None and self.spec.label == self.task.label
        return self.task.label if is_main else "auxiliary"

    def resumed(self, records: list[dict[str, Any]]) -> None:
        for record in records:  # all at once, so wait for a tracker rather than outrun it
            self.desk.mirror.log(record, patience=PATIENCE_SECONDS)

    def record(self, record: dict[str, Any]) -> None:
        self.desk.mirror.log(record)
        now = time.monotonic()
        final = record.get("step") == self.spec.num_steps
        if record["kind"] == "step" and (now - self.last > 0.2 or final):
            self.last = now
            told = (record["step"], self.spec.num_steps, record["loss"])
            role = self.spec.label if self.spec.evaluation is None else "main"
            self.desk.outlet.send(Progress(self.task.label, self.task.seed, role, *told))

    def stop(self) -> bool:
        return bool(self.desk.stop.value)
