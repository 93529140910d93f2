"""Tasks of an ablation: found finished, handed to workers, and settled as they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from harness.api import Mixer
from harness.data_warnings import DataWarning
from harness.fleet import Fleet
from harness.grid import Crew, Grid
from harness.leases import GRACE_SECONDS
from harness.plans import Carried, recall, recall_failure, remember_failure
from harness.ranks.launch import is_launched
from harness.resolve import num_fitting
from harness.settled import Settled
from harness.trackers import UNREACHABLE, Mirror
from harness.worker import Outcome, Progress, Site, Task
from harness.worker import finished as finished_outcome


class Display:
    """What a person sees of a grid; harness/display.py shows it in a terminal."""

    def say(self, text: str) -> None:
        """Show a line about the set-up."""

    def warn(self, warnings: list[DataWarning]) -> None:
        """Show what is to be known of the data, loud warnings loudly."""

    def open(self, total: int, found: int, what: str = "arms x seeds") -> None:
        """Begin a grid of `total` runs, of which `found` were finished before."""

    def progress(self, progress: Progress) -> None:
        """Show where a run is."""

    def outcome(self, task: Task, outcome: Outcome) -> None:
        """Show how a cell ended."""

    def close(self) -> None:
        """End the grid."""


class Notices:
    """What trackers in worker processes have to say, each thing once."""

    def __init__(self, display: Display) -> None:
        self.told: set[str] = set()
        self._display = display

    def hear(self, text: str) -> None:
        """Show what a worker says, unless it has been shown."""
        # Every worker says what befalls them all, in words of its own.
        subject = UNREACHABLE if text.startswith(UNREACHABLE) else text
        if subject not in self.told:
            self.told.add(subject)
            self._display.say(text)


@dataclass(frozen=True)
class Staff:
    """Who carries the runs out."""

    jobs: int | None = None
    """Runs at once in this process's workers; by default as many as fit."""
    fleet: Fleet | None = None
    """A launcher's workers in place of our own."""
    leases: str | None = None
    """The database that leases are in; by default they lie in the output folder."""
    grace: float = GRACE_SECONDS
    """Seconds without a sign of life after which a worker counts as dead."""
    settled: Settled | None = None
    """What `auto` stands for, where somebody else has settled it."""
    joins: bool = False
    """Others may be at it: what `auto` stands for must be the same for all."""


@dataclass
class Work:
    """How tasks are carried out: where, seen by whom, how many at once."""

    site: Site
    mirror: Mirror
    display: Display
    notices: Notices
    staff: Staff
    ended: Counter[str] = field(default_factory=Counter)
    """How many tasks have ended in each state."""

    def sorted(self, tasks: list[Task]) -> tuple[dict[Task, Carried], list[Task]]:
        """Return what was finished before, and what is to be done, longest first."""
        out = self.site.out
        found = {task: known for task in tasks if (known := recall(out, task.spec)) is not None}
        return found, _longest_first([task for task in tasks if task not in found])

    def look_up(self, task: Task) -> Outcome | None:
        """Return how a task has ended since we came, whoever was at it; None where it has not."""
        carried = recall(self.site.out, task.spec)
        if carried is not None:
            return finished_outcome(carried)
        failure = recall_failure(self.site.out, task.spec)
        if failure is None or failure["token"] == task.failed_before:
            return None
        return Outcome("failed", reason=failure["reason"])

    def grid(self, missing: list[Task]) -> AbstractContextManager[Crew | None]:
        """Return the workers that are needed."""
        if self.staff.fleet is not None:
            return _watched(self.staff.fleet if missing else None, self.display)
        workers = _num_workers(missing, self.staff.jobs)
        return _grid(self.site, workers, self.display, self.notices)

    def carry_out(
        self,
        grid: Crew | None,
        found: dict[Task, Carried],
        missing: list[Task],
        settle: Callable[[Task, Outcome], None],
    ) -> bool:
        """Settle what was found and do what is missing; return False where it was stopped."""
        runs, name = self.site.out / "runs", self.site.name
        for task, carried in found.items():
            settle(task, finished_outcome(carried))
            self.ended["finished"] += 1
            self.mirror.replay(runs / carried.main, name, task.label)
            for run_id, _ in carried.auxiliary:
                self.mirror.replay(runs / run_id, name, "auxiliary")

        def end(task: Task, outcome: Outcome) -> None:
            if outcome.status == "failed" and self.look_up(task) is None:
                remember_failure(self.site.out, task.spec, outcome.reason or "unknown")
            settle(task, outcome)
            self.display.outcome(task, outcome)
            self.ended[outcome.status] += 1

        return grid is None or grid.run(missing, end, self.look_up)


def _num_workers(missing: list[Task], jobs: int | None) -> int:
    """Return how many runs go at once: as many as fit, unless `jobs` says."""
    if not missing:
        return 0
    return min(jobs or num_fitting(missing[0].spec), len(missing))


@contextmanager
def _watched(fleet: Fleet | None, display: Display) -> Iterator[Crew | None]:
    """Yield the launcher's workers, which go on to the next tasks themselves."""
    try:
        yield fleet
    finally:
        display.close()


@contextmanager
def _grid(site: Site, workers: int, display: Display, notices: Notices) -> Iterator[Crew | None]:
    """Yield a grid whose workers are already importing torch, or None where none is needed."""
    if not workers:
        yield None
        return
    grid: Crew = Grid(site, workers, display.progress, notices.hear)
    if is_launched():
        from harness.rank_grid import RankGrid  # it imports torch

        grid = RankGrid(site, display.progress, notices.hear)
    try:
        grid.warm_up()
        yield grid
    finally:
        display.close()
        grid.close()


def _longest_first(tasks: list[Task]) -> list[Task]:
    """Put plans of several runs before single runs, so that no core idles at the end.

    What looks at other arms comes last: those arms' runs are then there, or another worker's.
    """

    def order(task: Task) -> tuple[bool, bool]:
        mixer = task.spec.mixer
        return bool(mixer.others()), type(mixer).plan is Mixer.plan

    return sorted(tasks, key=order)
