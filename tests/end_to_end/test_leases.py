"""A run whose worker died on another machine, or fell asleep there, is another's, and the same."""

from __future__ import annotations

import os
import signal
import time
from hashlib import sha256
from pathlib import Path

import pytest

from harness.corpus import open_corpus
from harness.leases import TakenError, disk_leases
from harness.records import read_records
from harness.runner import Runner

from . import single
from .conftest import Fork
from .test_resume import kill
from .undisturbed import Reference, assert_same_run

GRACE = 1.5


def runner(out: Path, reference: Reference, kind: str) -> Runner:
    """Return one more worker's runner, which waits for nobody."""
    store = open_corpus(reference.specs[kind].corpus, out / "corpora")
    leases = disk_leases(out, GRACE)
    return Runner(out, store, single.OFTEN, lambda _: single.Silent(), leases=leases, waits=False)


def take_over(mine: Runner, reference: Reference, kind: str) -> float:
    """Ask for a run until it is ours; return the seconds that it was refused."""
    start = time.monotonic()
    while time.monotonic() < start + 60:
        try:
            mine.ensure(reference.specs[kind])
        except TakenError:
            time.sleep(0.1)
            waited = time.monotonic() - start
        else:
            return waited
    raise AssertionError("it was refused for a minute")


def wait_for_steps(folder: Path, steps: int) -> None:
    """Wait until a run has written so many steps."""
    deadline = time.monotonic() + 60
    while len([r for r in read_records(folder / "records.jsonl") if r["kind"] == "step"]) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["static", "influence"])
def test_a_run_of_a_worker_killed_on_another_machine_is_taken_over_after_the_grace(
    kind: str, fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """From its last checkpoint, and equal to a run that nobody disturbed."""
    out = tmp_path / "out"
    folder, mine = reference.start_over(kind, out), runner(out, reference, kind)
    process = fork(single.ensure_abroad, out, reference.specs[kind], GRACE)
    wait_for_steps(folder, 10)
    with pytest.raises(TakenError):
        mine.ensure(reference.specs[kind])
    kill(process, folder / "records.jsonl", 1, 0.0)

    waited = take_over(mine, reference, kind)

    assert waited >= GRACE / 2  # its last sign of life may be as old as a beat
    assert_same_run(folder, reference.folder(kind))


def test_a_worker_that_wakes_after_its_run_was_taken_over_changes_nothing(
    fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """A virtual machine may be stopped in the middle of a step, and go on an hour later."""
    out = tmp_path / "out"
    folder, mine = reference.start_over("static", out), runner(out, reference, "static")
    process = fork(single.ensure_abroad, out, reference.specs["static"], GRACE)
    assert process.pid is not None
    wait_for_steps(folder, 10)
    os.kill(process.pid, signal.SIGSTOP)
    take_over(mine, reference, "static")
    before = {path.name: sha256(path.read_bytes()).digest() for path in folder.iterdir()}

    os.kill(process.pid, signal.SIGCONT)
    process.join(60)

    assert process.exitcode == 4
    assert {p.name: sha256(p.read_bytes()).digest() for p in folder.iterdir()} == before
    assert_same_run(folder, reference.folder("static"))
