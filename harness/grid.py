"""Arms x seeds over worker processes: resumable, and one failure loses nothing else.

Every worker is a process with a pipe of its own, so that a death disturbs no other run and is
charged to the one task that was at work: it gets two more tries, which resume its runs. (A process
pool ends all its workers when one dies, and cannot tell which task was to blame.) What another
grid's worker is at is asked for again, until it has ended there or can be had here. The parent owns
the ablation's file and the display. Ctrl-C sets a byte that all share: every worker saves its run
at the next step and stops; a second Ctrl-C ends them at once.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any, Protocol

from harness.worker import ELSEWHERE, Notice, Outcome, Progress, Site, Task, work

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

MAX_DEATHS = 3
POLL_SECONDS = 2.0  # until what is another's is asked for again

OnOutcome = Callable[[Task, Outcome], None]
LookUp = Callable[[Task], Outcome | None]


class Crew(Protocol):
    """Who carries out tasks: worker processes, or the ranks of one group."""

    def warm_up(self) -> None:
        """Make ready while the corpus is prepared."""

    def run(
        self, tasks: list[Task], on_outcome: OnOutcome, look_up: LookUp = lambda task: None
    ) -> bool:
        """Carry out all tasks; return False where the user stopped them.

        `look_up` tells how a task has ended, where somebody else was at it.
        """

    def close(self) -> None:
        """End, after saving."""


@dataclass(eq=False)
class _Worker:
    """A worker process as its parent sees it."""

    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    is_new: bool = True  # it has never been given a task


@dataclass
class Grid:
    """Up to `jobs` workers on one site."""

    site: Site
    jobs: int
    on_progress: Callable[[Progress], None]
    on_notice: Callable[[str], None] = print
    _context: Any = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    _workers: list[_Worker] = field(default_factory=list)
    _stop: Any = field(init=False)
    _was_asked: bool = False
    _elsewhere: deque[tuple[float, Task]] = field(default_factory=deque)
    """What others are at, and when it is to be asked for again; the soonest first."""

    def __post_init__(self) -> None:
        self._stop = self._context.RawValue("b", 0)

    def warm_up(self) -> None:
        """Let the workers import torch while the parent prepares the corpus."""
        for _ in range(self.jobs):
            self._hire()

    def run(
        self, tasks: list[Task], on_outcome: OnOutcome, look_up: LookUp = lambda task: None
    ) -> bool:
        """Carry out all tasks; return False where the user stopped them.

        `look_up` tells how a task has ended, where another grid's worker was at it.
        """
        pending, deaths = deque(tasks), Counter[Task]()
        with taking_signals(self._ask_to_stop):
            while pending or self._elsewhere or self._is_busy():
                self._ask_again(pending)
                while self._stop.value and pending:
                    on_outcome(pending.popleft(), Outcome("interrupted"))
                self._hand_out(pending, on_outcome, look_up)
                if not self._is_busy() and not self._elsewhere:
                    continue  # nobody would wake us
                pipes = [worker.pipe for worker in self._workers]
                for ready in connection.wait(pipes, self._patience()):
                    worker = next(w for w in self._workers if w.pipe is ready)
                    lost = self._hear(worker, on_outcome)
                    if lost is not None:
                        deaths[lost] += 1
                        self._after_death(lost, worker, deaths[lost], pending, on_outcome)
        return not self._stop.value

    def close(self) -> None:
        """End the workers, after they have saved what they are at."""
        self._stop.value = 1
        for worker in self._workers:
            if worker.is_new:
                worker.process.kill()  # it may be importing still, and has nothing to save
            with suppress(OSError):
                worker.pipe.send(None)
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _is_busy(self) -> bool:
        return any(worker.task is not None for worker in self._workers)

    def _hire(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self.site, self._stop)
        process = self._context.Process(target=work, args=arguments)
        with interrupts_held():
            process.start()
        theirs.close()  # or the pipe would outlive the worker, and tell of no death
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _ask_again(self, pending: deque[Task]) -> None:
        """Put what was another's for long enough, or all where we are to stop, with the rest."""
        while self._elsewhere and (self._stop.value or not self._patience()):
            pending.append(self._elsewhere.popleft()[1])

    def _patience(self) -> float | None:
        """Return the seconds until a task is asked for again; None where none is."""
        if not self._elsewhere:
            return None
        return max(0.0, self._elsewhere[0][0] - time.monotonic())

    def _hand_out(self, pending: deque[Task], on_outcome: OnOutcome, look_up: LookUp) -> None:
        """Give every free worker a task that nobody has done meanwhile."""
        while pending:
            free = next((w for w in self._workers if w.task is None), None)
            if free is None and len(self._workers) == self.jobs:
                return
            known = look_up(pending[0])
            if known is not None:
                on_outcome(pending.popleft(), known)
                continue
            worker = free or self._hire()
            worker.task, worker.is_new = pending.popleft(), False
            try:
                worker.pipe.send(worker.task)
            except OSError:
                pass  # it has just died, and waiting for its answer will tell
            except Exception as error:  # a method that cannot be pickled fails like any other
                reason = f"cannot be sent to a worker: {type(error).__name__}: {error}"
                on_outcome(worker.task, Outcome("failed", reason=reason))
                worker.task = None

    def _hear(self, worker: _Worker, on_outcome: OnOutcome) -> Task | None:
        """Take one message; return the task that is lost where the worker has died."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.pipe.close()
            worker.process.join()
            return worker.task
        if isinstance(message, Progress):
            self.on_progress(message)
        elif isinstance(message, Notice):
            self.on_notice(message.text)
        else:
            assert worker.task is not None
            task, worker.task = worker.task, None
            if message.status == ELSEWHERE:
                self._elsewhere.append((time.monotonic() + POLL_SECONDS, task))
            else:
                on_outcome(task, message)
        return None

    def _after_death(
        self,
        task: Task,
        worker: _Worker,
        num_deaths: int,
        pending: deque[Task],
        on_outcome: OnOutcome,
    ) -> None:
        if self._stop.value:
            on_outcome(task, Outcome("interrupted"))
        elif num_deaths < MAX_DEATHS:
            pending.appendleft(task)
        else:
            cause = _cause(worker.process.exitcode)
            reason = f"its process died {num_deaths} times, the last time {cause}"
            on_outcome(task, Outcome("failed", reason=reason))

    def _ask_to_stop(self) -> None:
        if self._was_asked:  # not the byte: a signal to the whole group lets a worker set it first
            for worker in self._workers:
                worker.process.kill()
        self._was_asked, self._stop.value = True, 1


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"by {name} (out of memory?)" if name == "SIGKILL" else f"by {name}"


@contextmanager
def taking_signals(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into calls of `ask_to_stop`."""
    asked = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, lambda *_: ask_to_stop()) for s in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started here never hears it, not even while it starts."""
    resource_tracker.ensure_running()  # its own start lifts the hold
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
