"""Workers and signals; that nothing is lost when one dies is shown in tests/end_to_end."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import grid as grid_module
from harness.grid import Grid, _cause, _Worker
from harness.spec import Checkpoint
from harness.worker import ELSEWHERE, Notice, Outcome, Site, Task


@dataclass
class Kills:
    """A process that counts how often it was killed."""

    count: int = 0
    exitcode: int | None = field(default=None)

    def kill(self) -> None:
        self.count += 1


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Return a grid without workers."""
    return Grid(Site(tmp_path, Checkpoint(), (), "tiny"), 1, lambda progress: None)


def employ(grid: Grid) -> Kills:
    """Give the grid a worker that only looks like one."""
    process: Any = Kills()
    pipe: Any = None
    grid._workers.append(_Worker(process, pipe))
    return process  # type: ignore[no-any-return]


def test_the_first_request_to_stop_lets_runs_save_and_the_second_ends_them(grid: Grid) -> None:
    process = employ(grid)

    grid._ask_to_stop()
    assert (grid._stop.value, process.count) == (1, 0)
    grid._ask_to_stop()
    assert process.count == 1


def test_a_signal_that_workers_hear_too_is_still_the_first(grid: Grid) -> None:
    """A scheduler's SIGTERM goes to all processes, and a worker may answer before its parent."""
    process = employ(grid)
    grid._stop.value = 1

    grid._ask_to_stop()

    assert process.count == 0


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [(-9, "by SIGKILL (out of memory?)"), (-11, "by SIGSEGV"), (3, "with exit code 3")],
)
def test_a_death_is_told_with_its_cause(exit_code: int, told: str) -> None:
    assert _cause(exit_code) == told


def test_what_workers_say_of_their_trackers_is_passed_on(tmp_path: Path) -> None:
    told: list[str] = []
    site = Site(tmp_path, Checkpoint(), (), "tiny")
    grid = Grid(site, 2, lambda progress: None, told.append)
    ours, theirs = multiprocessing.Pipe()
    worker = _Worker(Kills(), ours)  # type: ignore[arg-type]
    for text in ("no server", "no disk"):
        theirs.send(Notice(text))
        grid._hear(worker, lambda task, outcome: None)

    assert told == ["no server", "no disk"]


def test_what_is_anothers_is_asked_for_again_until_it_has_ended(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task is had at the second try; the second task another worker has finished."""
    monkeypatch.setattr(grid_module, "POLL_SECONDS", 0.05)
    first, second = (Task("a", seed, None) for seed in (0, 1))  # type: ignore[arg-type]
    ours, theirs = multiprocessing.Pipe()
    grid._workers.append(_Worker(Kills(), ours))  # type: ignore[arg-type]
    answers = iter([Outcome(ELSEWHERE), Outcome(ELSEWHERE), Outcome("finished", "ours")])
    asked: list[int] = []

    class Pipe:
        """A pipe to a worker that answers at once."""

        def send(self, task: Task) -> None:
            asked.append(task.seed)
            theirs.send(next(answers))

        def recv(self) -> Any:
            return ours.recv()

        def fileno(self) -> int:
            return ours.fileno()

    grid._workers[0].pipe = Pipe()  # type: ignore[assignment]
    looks: list[int] = []

    def look_up(task: Task) -> Outcome | None:
        looks.append(task.seed)
        return Outcome("finished", "theirs") if looks.count(1) > 1 and task.seed == 1 else None

    told: list[tuple[int, str | None]] = []
    done = grid.run([first, second], lambda task, o: told.append((task.seed, o.run_id)), look_up)

    assert done
    assert asked == [0, 1, 0]
    assert sorted(told) == [(0, "ours"), (1, "theirs")]
