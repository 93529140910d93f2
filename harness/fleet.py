"""Workers that a launcher starts elsewhere, seen from the command that asked for them.

Each is `steelyard work` on the same spec and folder. They lease what they train and write down how
it ended, so there is nothing to hand out and nothing to collect: this command looks on until all is
done, and its own end loses nothing. Where every worker has ended and something is left, it is told
how they ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from harness.grid import LookUp, OnOutcome, taking_signals
from harness.worker import Outcome

if TYPE_CHECKING:
    from harness.worker import Task

POLL_SECONDS = 1.0
LEAVE_SECONDS = 30.0  # for a worker to see that all is done, and to end


class Job(Protocol):
    """A worker that was asked for."""

    name: str

    def ending(self) -> str | None:
        """Return how it ended, in a line; None while it waits or works."""

    def is_queued(self) -> bool:
        """Tell whether it has not begun, where its launcher can say so."""

    def cancel(self) -> None:
        """Ask it to save its run and end."""


Launch = Callable[[], list[Job]]


@dataclass
class Fleet:
    """The workers of one command; launched where there is something to do for them."""

    launch: Launch
    say: Callable[[str], None] = print
    is_detached: bool = False
    """Leave the workers to themselves once they are launched."""
    jobs: list[Job] = field(default_factory=list)
    _asked: bool = False

    def warm_up(self) -> None:
        """Do nothing: workers are launched when there is something to do for them."""

    def run(
        self, tasks: list[Task], on_outcome: OnOutcome, look_up: LookUp = lambda task: None
    ) -> bool:
        """Wait until all tasks have ended; return False where the user stopped them."""
        with taking_signals(self._ask_to_stop):
            if all(job.ending() is not None for job in self.jobs):
                self.jobs = self.launch()
                names = ", ".join(job.name for job in self.jobs)
                plural = "" if len(self.jobs) == 1 else "s"
                self.say(f"{len(self.jobs)} worker{plural} launched: {names}")
            if self.is_detached:
                return False
            left = self._watch(list(tasks), on_outcome, look_up)
        for task in left:
            on_outcome(task, self._lost())
        return not self._asked

    def close(self) -> None:
        """Call off workers that still wait to begin, and see off those that are about to end."""
        if self.is_detached:
            return
        for job in self.jobs:
            if job.ending() is None and job.is_queued():
                job.cancel()
        deadline = time.monotonic() + LEAVE_SECONDS
        while any(job.ending() is None for job in self.jobs) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._cancel()

    def _watch(self, left: list[Task], on_outcome: OnOutcome, look_up: LookUp) -> list[Task]:
        """Tell how tasks end; return those that nobody is at any more."""
        over = False
        while left and not over:
            over = all(job.ending() is not None for job in self.jobs)  # before the last look
            for task in list(left):
                outcome = look_up(task)
                if outcome is not None:
                    left.remove(task)
                    on_outcome(task, outcome)
            if left and not over:
                time.sleep(POLL_SECONDS)
        return left

    def _lost(self) -> Outcome:
        if self._asked:
            return Outcome("interrupted")
        told = "; ".join(dict.fromkeys(f"{job.name} {job.ending()}" for job in self.jobs))
        return Outcome("failed", reason=f"no worker is left: {told}")

    def _ask_to_stop(self) -> None:
        self._asked = True
        self._cancel()

    def _cancel(self) -> None:
        for job in self.jobs:
            if job.ending() is None:
                job.cancel()
