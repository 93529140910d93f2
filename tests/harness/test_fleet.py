"""Launched workers, seen from the command that asked for them, with jobs that are only played."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import fleet
from harness.arguments import parse
from harness.cli import find_method
from harness.commands.launching import launched
from harness.errors import SpecError
from harness.fleet import Fleet
from harness.forms import COMMANDS
from harness.run_forms import Run
from harness.settled import Settled, reasons, settle_for
from harness.specfile import load_ablation
from harness.worker import Outcome, Task

SPEC = Path(__file__).parents[2] / "sweeps/demo.toml"


@dataclass
class Played:
    """A job whose end is set by hand."""

    name: str
    ended: str | None = None
    cancelled: int = 0
    queued: bool = False

    def ending(self) -> str | None:
        return self.ended

    def is_queued(self) -> bool:
        return self.queued

    def cancel(self) -> None:
        self.cancelled += 1
        self.ended = "was cancelled"


@dataclass
class Grid:
    """Two tasks, the jobs at them, and what was told."""

    jobs: list[Any] = field(default_factory=lambda: [Played("job 1"), Played("job 2")])
    tasks: list[Task] = field(default_factory=lambda: [Task("a", i, None) for i in range(2)])  # type: ignore[arg-type]
    told: list[tuple[int, str, str | None]] = field(default_factory=list)
    launches: int = 0

    def launch(self) -> list[Any]:
        self.launches += 1
        return self.jobs

    def run(self, one: Fleet, look_up: Callable[[Task], Outcome | None]) -> bool:
        def tell(task: Task, outcome: Outcome) -> None:
            self.told.append((task.seed, outcome.status, outcome.reason))

        return one.run(self.tasks, tell, look_up)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0.01)


def test_tasks_end_as_workers_write_it_down_and_the_next_tasks_have_the_same_workers() -> None:
    grid, said = Grid(), []
    one = Fleet(grid.launch, said.append)
    looks = iter([None, Outcome("finished", "r1"), Outcome("failed", reason="why")])

    assert grid.run(one, lambda task: next(looks))
    assert grid.run(one, lambda task: Outcome("finished", "r2"))

    assert grid.told[:2] == [(1, "finished", None), (0, "failed", "why")]
    assert said == ["2 workers launched: job 1, job 2"]
    assert grid.launches == 1
    grid.jobs[0].ended, grid.jobs[1].queued = "ended with exit code 0", True
    one.close()
    assert [job.cancelled for job in grid.jobs] == [0, 1]


def test_where_every_worker_has_ended_it_is_told_how() -> None:
    """What they had done by then counts: they end after they have written it down."""
    grid = Grid()
    grid.jobs[0].ended, grid.jobs[1].ended = "ended with exit code 2", "ended: out of memory"
    done = {0: Outcome("finished", "r1")}

    assert grid.run(Fleet(grid.launch, lambda _: None), lambda task: done.get(task.seed))

    reason = "no worker is left: job 1 ended with exit code 2; job 2 ended: out of memory"
    assert grid.told == [(0, "finished", None), (1, "failed", reason)]


def test_ctrl_c_asks_the_workers_to_save_and_waits_for_them() -> None:
    grid = Grid()

    def look_up(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    assert not grid.run(Fleet(grid.launch, lambda _: None), look_up)
    assert {status for _, status, _ in grid.told} == {"interrupted"}
    assert all(job.cancelled for job in grid.jobs)


def test_detached_workers_are_left_to_themselves() -> None:
    grid = Grid()
    one = Fleet(grid.launch, lambda _: None, is_detached=True)

    assert not grid.run(one, lambda task: None)
    one.close()

    assert (grid.told, [job.cancelled for job in grid.jobs]) == ([], [0, 0])


def asked(*options: str) -> Run:
    """Return the options of a run as the command line reads them."""
    form: Any = COMMANDS["run"]
    run: Run = parse(form, [str(SPEC), *options], prog="steelyard run")
    return run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--launcher=slurm", "--slurm.cores=0"), "--slurm.cores: must be at least 1, got 0"),
        (("--launcher=ray", "--ray.gpus=-1"), "--ray.gpus: must be at least 0, got -1"),
        (("--launcher=ray", "--detach"), "--detach: needs --launcher slurm"),
    ],
)
def test_what_no_worker_can_have_is_refused(options: tuple[str, ...], words: str) -> None:
    ablation = load_ablation(SPEC, ["--device=cpu"], find_method)

    with pytest.raises(SpecError, match=words):
        launched(asked(*options), ablation, [], print)


def test_slurm_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    ablation = load_ablation(SPEC, ["--device=cpu"], find_method)

    with pytest.raises(SpecError, match=r"needs sbatch, .* or try --slurm\.cluster=local"):
        launched(asked("--launcher=slurm"), ablation, [], print)


def test_what_auto_stands_for_is_settled_for_the_workers() -> None:
    """A login node has no GPU, and fewer or more cores."""
    auto = load_ablation(SPEC, ["--device=auto", "--precision=auto", "--threads=auto"], find_method)
    large = load_ablation(
        SPEC,
        ["--model.size=124m", "--precision=float32", "--threads=auto", "--compile=False"],
        find_method,
    )

    assert settle_for(auto, 4, 1, "--slurm.gpus") == Settled("cuda", "bfloat16", 1, False)
    assert settle_for(large, 4, 0, "--slurm.gpus") == Settled("cpu", "float32", 4, False)
    told = reasons(large, Settled("cpu", "float32", 4, False))
    assert told["threads"] == "4: as the workers were told"
    assert told["precision"] == "float32: as the spec says"
    for device, gpus in (("cuda", 0), ("cpu", 1)):
        given = load_ablation(SPEC, [f"--device={device}"], find_method)
        with pytest.raises(SpecError, match=f'--slurm.gpus: the spec has device = "{device}"'):
            settle_for(given, 4, gpus, "--slurm.gpus")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cuda",
        "tpu/float32/1/plain",
        "cpu/float32/0/plain",
        "cpu/float32/x/plain",
        "cpu/float32/1/",
    ],
)
def test_settled_is_read_as_it_is_written(text: str) -> None:
    for settled in (Settled("cpu", "float32", 3, True), Settled("cuda", "bfloat16", 1, False)):
        assert Settled.read(str(settled)) == settled
    with pytest.raises(SpecError, match="--settled: must be like cpu/float32/1/plain"):
        Settled.read(text)
