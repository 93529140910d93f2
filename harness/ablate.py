"""One ablation from spec to records: corpus, grid, and the file of which run fills which cell."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import equal_compute
from harness.api import Mixer
from harness.cells import Cells, begin
from harness.corpus import corpus_id, open_corpus
from harness.data_warnings import DataWarning, log, warnings_of
from harness.grid import Crew, Grid
from harness.plans import Carried, recall
from harness.preflight import (
    check_buildable,
    check_name,
    check_ranks,
    check_rows,
    localized,
    make_writable,
    open_mirror,
    settle_wandb,
)
from harness.ranks.launch import is_launched
from harness.resolve import num_fitting, reasons, resolve
from harness.spec import Ablation, RunSpec
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


class _Notices:
    """What trackers in worker processes have to say, each thing once."""

    def __init__(self, display: Display) -> None:
        self.told: set[str] = set()
        self._display = display

    def hear(self, text: str) -> None:
        # Every worker says what befalls them all, in words of its own.
        subject = UNREACHABLE if text.startswith(UNREACHABLE) else text
        if subject not in self.told:
            self.told.add(subject)
            self._display.say(text)


@dataclass(frozen=True)
class Summary:
    """How the ablation went."""

    finished: int
    num_failed: int
    interrupted: bool
    wandb_mode: str | None = None
    """W&B's, settled; None where it is no tracker of this ablation."""


def run_ablation(
    ablation: Ablation,
    out: Path,
    jobs: int | None,
    display: Display,
    command: list[str],
    warning: str | None = None,
    wandb_mode: str | None = None,
) -> Summary:
    """Run every (arm, seed) that is not finished yet; SpecError before any compute.

    `warning` is said before the work, and after what cannot be done at all is refused.
    """
    wandb_mode = settle_wandb(ablation.trackers, wandb_mode, display.say)
    mirror = open_mirror(ablation, out, wandb_mode, display.say)
    check_ranks(ablation, jobs)
    make_writable(out)
    written, (ablation, model_id) = ablation, localized(ablation, out, display.say)
    text_id = corpus_id(ablation.corpus, out / "corpora")
    check_name(written, out, text_id, model_id)
    if warning is not None:
        display.say(f"warning: {warning}")
    specs = resolve(ablation, text_id, model_id)
    tasks = [Task(label, seed, spec) for (label, seed), spec in specs.items()]
    trackers = (ablation.trackers, ablation.name, wandb_mode)
    site = Site(out, ablation.corpus, ablation.checkpoint, *trackers, parallel=ablation.parallel)
    work = _Work(site, mirror, display, _Notices(display), jobs)
    found, missing = work.sorted(tasks)
    if missing:
        check_buildable(ablation)
    with work.grid(missing) as grid:
        store = open_corpus(ablation.corpus, out / "corpora", display.say)
        check_rows(ablation, store)
        warnings = warnings_of(ablation, store.manifest)
        log(warnings)
        display.warn(warnings)
        cells = begin(written, out, store, model_id, shlex.join(command))
        cells.content["chosen"] = reasons(ablation)
        cells.content["warnings"] = [warning.to_json() for warning in warnings]
        cells.save()
        display.open(len(tasks), len(found))
        completed = work.carry_out(grid, found, missing, cells.settle)
    if completed and ablation.equal_compute:
        completed = _equalize(ablation, specs, work, cells)
    mode = "offline" if UNREACHABLE in work.notices.told else wandb_mode
    return Summary(work.ended["finished"], work.ended["failed"], not completed, mode)


def _equalize(
    ablation: Ablation, specs: dict[tuple[str, int], RunSpec], work: _Work, cells: Cells
) -> bool:
    """Train the baseline at the compute of every method; return False where it was stopped."""
    wanted = equal_compute.tasks(ablation, specs, cells.content, work.site.out / "runs")
    tasks = list(dict.fromkeys(wanted.values()))
    found, missing = work.sorted(tasks)

    def settle(task: Task, outcome: Outcome) -> None:
        pairs = [pair for pair, one in wanted.items() if one is task]
        cells.settle_longer(pairs, task.spec.num_steps, outcome)

    with work.grid(missing) as grid:
        work.display.open(len(tasks), len(found), f"{ablation.baseline} at the methods' compute")
        return work.carry_out(grid, found, missing, settle)


@dataclass
class _Work:
    """How tasks are carried out: where, seen by whom, how many at once."""

    site: Site
    mirror: Mirror
    display: Display
    notices: _Notices
    jobs: int | None
    ended: Counter[str] = field(default_factory=Counter)
    """How many tasks have ended in each state."""

    def sorted(self, tasks: list[Task]) -> tuple[dict[Task, Carried], list[Task]]:
        """Return what was finished before, and what is to be done, longest first."""
        out = self.site.out
        found = {task: known for task in tasks if (known := recall(out, task.spec)) is not None}
        return found, _longest_first([task for task in tasks if task not in found])

    def grid(self, missing: list[Task]) -> AbstractContextManager[Crew | None]:
        """Return the workers that are needed."""
        return _grid(self.site, _num_workers(missing, self.jobs), self.display, self.notices)

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
            settle(task, outcome)
            self.display.outcome(task, outcome)
            self.ended[outcome.status] += 1

        return grid is None or grid.run(missing, end)


def _num_workers(missing: list[Task], jobs: int | None) -> int:
    """Return how many runs go at once: as many as fit, unless `jobs` says."""
    if not missing:
        return 0
    return min(jobs or num_fitting(missing[0].spec), len(missing))


@contextmanager
def _grid(site: Site, workers: int, display: Display, notices: _Notices) -> Iterator[Crew | None]:
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
