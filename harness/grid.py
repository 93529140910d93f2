"""Arms x seeds over worker processes: resumable, and one failure loses nothing else.

A worker imports torch once and then takes one (arm, seed) after another. The parent owns the
ablation's file and the display; workers send what they do over a queue. The longest plans go
first. Ctrl-C sets an event: every worker saves its run at the next step and stops.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.spec import Checkpoint, Corpus, RunSpec
from harness.trackers import Mirror, open_trackers

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

MAX_CRASHES = 3


@dataclass(frozen=True, eq=False)
class Task:
    """One arm at one seed."""

    label: str
    seed: int
    spec: RunSpec


class Outcome(NamedTuple):
    """How a task ended."""

    status: str  # finished, failed or interrupted
    run_id: str | None = None
    auxiliary: tuple[tuple[str, str], ...] = ()  # (run id, role)
    reason: str | None = None


class Progress(NamedTuple):
    """What a worker says while it trains."""

    label: str
    seed: int
    role: str
    step: int
    num_steps: int
    loss: float


OnOutcome = Callable[[Task, Outcome], None]


@dataclass(frozen=True)
class Site:
    """Where workers work, and what they share."""

    out: Path
    corpus: Corpus
    checkpoint: Checkpoint
    trackers: tuple[str, ...]
    name: str


@dataclass
class Grid:
    """A pool of workers on one site."""

    site: Site
    jobs: int
    on_progress: Callable[[Progress], None]
    _context: Any = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    _stop: Event = field(init=False)
    _channel: Any = field(init=False)
    _pool: ProcessPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._stop = self._context.Event()
        self._channel = self._context.Queue()
        self._pool = self._open()

    def _open(self) -> ProcessPoolExecutor:
        arguments = (self.site, self._channel, self._stop)
        return ProcessPoolExecutor(
            self.jobs, mp_context=self._context, initializer=_start, initargs=arguments
        )

    def warm_up(self) -> None:
        """Let the workers import torch while the parent prepares the corpus."""
        for _ in range(self.jobs):
            self._pool.submit(_import_everything)

    def run(self, tasks: list[Task], on_outcome: OnOutcome) -> bool:
        """Carry out all tasks; return False where the user stopped them."""
        pending, crashes = deque(tasks), Counter[Task]()
        running: dict[Future[Outcome], Task] = {}
        with _stopping_on_interrupt(self._stop):
            while pending or running:
                # no more than one task per worker is handed out, so that a dead one names few
                while pending and len(running) < self.jobs:
                    task = pending.popleft()
                    running[self._pool.submit(_carry_out, task)] = task
                done, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                self._relay()
                lost = [
                    t for f in done if (t := _settle(f, running.pop(f), on_outcome)) is not None
                ]
                if lost:
                    lost += running.values()
                    running.clear()
                    pending.extendleft(self._after_crash(lost, crashes, on_outcome))
        self._relay()
        return not self._stop.is_set()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(cancel_futures=True)

    def _after_crash(
        self, lost: list[Task], crashes: Counter[Task], on_outcome: OnOutcome
    ) -> list[Task]:
        """Open a new pool; return the tasks that get another try, which resumes their runs.

        Which task killed its worker cannot be told, so all that were running count a crash.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._open()
        crashes.update(lost)
        again = [task for task in lost if crashes[task] < MAX_CRASHES]
        for task in lost:
            if task not in again:
                reason = f"its worker process died {MAX_CRASHES} times (out of memory?)"
                on_outcome(task, Outcome("failed", reason=reason))
        return again

    def _relay(self) -> None:
        try:
            while True:
                self.on_progress(self._channel.get_nowait())
        except queue.Empty:
            pass


def _settle(future: Future[Outcome], task: Task, on_outcome: OnOutcome) -> Task | None:
    """Report a task's outcome; return the task where its worker died."""
    try:
        outcome = future.result()
    except BrokenProcessPool:
        return task
    except Exception as error:  # a task that cannot even be sent: ours, and still not the end
        outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
    on_outcome(task, outcome)
    return None


class _stopping_on_interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request to save and stop."""

    def __init__(self, stop: Event) -> None:
        self.stop = stop

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, *_: object) -> None:
        self.stop.set()

    def __exit__(self, *_: object) -> None:
        for signal_, handler in self.before.items():
            signal.signal(signal_, handler)


# ---- inside a worker ------------------------------------------------------------------------


class _Worker(NamedTuple):
    site: Site
    channel: Any
    stop: Event
    mirror: Mirror


_worker: _Worker | None = None


def _start(site: Site, channel: Any, stop: Event) -> None:
    global _worker  # a process pool has no other way to give its workers anything
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _worker = _Worker(site, channel, stop, open_trackers(site.trackers, site.out))


def _import_everything() -> None:
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    import harness.runner  # noqa: F401


def _carry_out(task: Task) -> Outcome:
    from harness.corpus import open_corpus
    from harness.loop import InterruptedRunError
    from harness.runner import Runner, one_line

    assert _worker is not None
    site = _worker.site
    if _worker.stop.is_set():
        return Outcome("interrupted")
    try:
        store = open_corpus(site.corpus, site.out / "corpora")
        runner = Runner(site.out, store, site.checkpoint, lambda spec: _Watch(task, spec))
        carried = runner.carry_out(task.spec)
    except InterruptedRunError:
        return Outcome("interrupted")
    except Exception as error:
        return Outcome("failed", reason=one_line(error))
    return Outcome("finished", carried.main, carried.auxiliary)


class _Watch:
    """Sends a run's progress to the parent, a few times a second."""

    def __init__(self, task: Task, spec: RunSpec) -> None:
        assert _worker is not None
        self.worker, self.task, self.spec = _worker, task, spec
        self.last = 0.0

    def found(self, folder: Path) -> None:
        self.worker.mirror.replay(folder, self.worker.site.name, self._label())

    def begin(self, header: dict[str, Any]) -> None:
        self.worker.mirror.start(header, self.worker.site.name, self._label())

    def end(self, header: dict[str, Any]) -> None:
        self.worker.mirror.finish(header["status"], header["costs"])

    def _label(self) -> str:
        return self.task.label if self.spec.evaluation is not None else "auxiliary"

    def record(self, record: dict[str, Any]) -> None:
        self.worker.mirror.log(record)
        now = time.monotonic()
        final = record.get("step") == self.spec.num_steps
        if record["kind"] == "step" and (now - self.last > 0.2 or final):
            self.last = now
            told = (record["step"], self.spec.num_steps, record["loss"])
            role = self.spec.label if self.spec.evaluation is None else "main"
            self.worker.channel.put(Progress(self.task.label, self.task.seed, role, *told))

    def stop(self) -> bool:
        return self.worker.stop.is_set()
