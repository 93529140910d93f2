"""Any number of `steelyard work`, one of them killed: every run is trained once, and as alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli

from .conftest import ARMS, Finished, Out, command, environment, timeless, write_spec


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start `steelyard` in a group of its own."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait, and fail after a minute and a half."""
    deadline = time.monotonic() + 90
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def read_until(words: str, process: subprocess.Popen[str]) -> str:
    """Return what a process has printed up to a line with these words."""
    told = ""
    assert process.stdout is not None
    while words not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    return told


def test_what_a_killed_worker_was_at_is_taken_over_by_another(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers: one stops in the middle of a run and is killed with all its processes, while the
    other has done the rest and waits; it goes on from the checkpoint and writes the report."""
    gate, waiting = tmp_path / "gate", tmp_path / "gate.waiting"
    log = tmp_path / "log"
    arms = {
        "waits": f'method = "misbehaving:Waits"\nsettings = {{ gate = "{gate}" }}',
        "counted": f'method = "misbehaving:Counted"\nsettings = {{ log = "{log}" }}',
        "doremi": ARMS["doremi"],
        "uniform": ARMS["uniform"],
    }
    spec = write_spec(tmp_path / "shared.toml", arms, seeds=(0,), head="checkpoint = { steps = 2 }")
    out = Out(tmp_path / "out")
    arguments = ("work", spec, "--out", out.folder, "--jobs", 1)
    first = started(*arguments, cwd=tmp_path)
    wait_until(waiting.exists, "the first worker to come to step 5")
    second = started(*arguments, cwd=tmp_path)
    wait_until(
        lambda: all(out.cell("shared", label, 0)["run_id"] for label in arms if label != "waits"),
        "the second worker to do all the rest",
    )
    cli.main(["show", str(out.folder)])
    told = capsys.readouterr().out
    assert re.search(r":\d+ +│ run-\w+ +│ waits seed 0 +│ +\d+ s ago", told), told
    (run_id,) = set(re.findall(r"(\w{16}) │ Waits +│ +0 │ running", told))

    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    gate.touch()
    stdout, _ = second.communicate(timeout=120)

    assert second.returncode == 0, stdout
    assert "report: " in stdout
    assert log.read_text().split() == [str(step) for step in range(12)]
    assert [r["step"] for r in out.records(run_id, "step")] == list(range(1, 13))
    for label, same in (("waits", "uniform"), ("counted", "uniform"), ("doremi", "doremi")):
        ours = out.cell("shared", label, 0)
        assert ours["status"] == "finished"
        assert timeless(out.records(ours["run_id"])) == timeless(finished.out.main(same, 0))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_failure_is_told_to_the_workers_that_wait_for_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two workers, their leases in a database, and a cell that fails: one trains it, both say why,
    and neither tries again."""
    gate = tmp_path / "gate"
    arms = {
        "uniform": ARMS["uniform"],
        "raises": f'method = "misbehaving:WaitsAndRaises"\nsettings = {{ gate = "{gate}" }}',
    }
    spec = write_spec(tmp_path / "shared.toml", arms, seeds=(0,))
    leases = f"sqlite:///{tmp_path / 'leases.db'}"
    if kind == "postgresql":
        leases = request.getfixturevalue("postgres")()
    arguments = ("work", spec, "--out", tmp_path / "out", "--jobs", 1, "--leases", leases)
    both = [started(*arguments, cwd=tmp_path) for _ in range(2)]
    out = Out(tmp_path / "out")
    wait_until(Path(f"{gate}.waiting").exists, "a worker to come to step 5")
    told = [read_until("2 runs: arms x seeds", process) for process in both]
    wait_until(lambda: bool(out.cell("shared", "uniform", 0)["run_id"]), "the other to be done")
    gate.touch()
    for i, process in enumerate(both):
        told[i] += process.communicate(timeout=90)[0]

    assert [process.returncode for process in both] == [1, 1], told
    for text in told:
        assert "raises seed 0: ValueError: it is step 5" in " ".join(text.split())
    assert gate.read_text().split() == ["raised"]
