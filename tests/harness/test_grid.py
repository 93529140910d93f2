"""Workers and signals; that nothing is lost when one dies is shown in tests/end_to_end."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.grid import Grid, _cause, _Worker
from harness.spec import Checkpoint, Corpus, SyntheticDomain
from harness.worker import Notice, Site


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
    corpus = Corpus(domains={"a": SyntheticDomain()})
    return Grid(Site(tmp_path, corpus, Checkpoint(), (), "tiny"), 1, lambda progress: None)


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
    corpus = Corpus(domains={"a": SyntheticDomain()})
    site = Site(tmp_path, corpus, Checkpoint(), (), "tiny")
    grid = Grid(site, 2, lambda progress: None, told.append)
    ours, theirs = multiprocessing.Pipe()
    worker = _Worker(Kills(), ours)  # type: ignore[arg-type]
    for text in ("no server", "no disk"):
        theirs.send(Notice(text))
        grid._hear(worker, lambda task, outcome: None)

    assert told == ["no server", "no disk"]
