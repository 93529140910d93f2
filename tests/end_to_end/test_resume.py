"""Kill -9 at any moment: the run resumes to equal bits in every tensor and every record."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from harness.records import read_records

from . import single
from .conftest import Fork, finish
from .undisturbed import KINDS, Reference, assert_same_run


def kill(process: BaseProcess, records: Path, size: int, delay: float) -> None:
    """Kill a process `delay` seconds after it has written `size` bytes of records."""
    deadline = time.monotonic() + 60
    while size and not (records.exists() and records.stat().st_size >= size):
        assert process.is_alive(), "it ended before its moment"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.join(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def check_debris(folder: Path) -> None:
    """Check what a killed process leaves: every file under its own name is whole."""
    checkpoint, header = folder / "checkpoint.pt", folder / "run.json"
    if header.exists():
        assert json.loads(header.read_text())["status"] == "running"
    if checkpoint.exists():
        assert torch.load(checkpoint, weights_only=True)["step"] % single.OFTEN.steps == 0


def moments(seed: str, count: int, final_size: int) -> list[tuple[int, float]]:
    """Return bytes of records and seconds after them, spread at random over a whole run."""
    rng = random.Random(seed)
    return [(int(0.95 * final_size * rng.random()), 0.02 * rng.random()) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_three_times_equals_one_that_was_not(
    kind: str, fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """Killed at random moments, each further into the run, and once more while it resumes."""
    expected = reference.folder(kind)
    folder = reference.start_over(kind, tmp_path / "out")
    size = (expected / "records.jsonl").stat().st_size

    for moment in sorted(moments(kind, 3, size)):
        process = fork(single.ensure, tmp_path / "out", reference.specs[kind])
        kill(process, folder / "records.jsonl", *moment)
        check_debris(folder)
    kill(fork(single.ensure, tmp_path / "out", reference.specs[kind]), folder, 0, 0.1)
    finish(fork(single.ensure, tmp_path / "out", reference.specs[kind]))

    assert_same_run(folder, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_any_of_20_moments_equals_one_that_was_not(
    kind: str, fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """A new run for each moment, resumed once."""
    expected, spec = reference.folder(kind), reference.specs[kind]
    size = (expected / "records.jsonl").stat().st_size

    for i, moment in enumerate(moments(f"{kind} slow", 20, size)):
        out = tmp_path / str(i)
        folder = reference.start_over(kind, out)
        kill(fork(single.ensure, out, spec), folder / "records.jsonl", *moment)
        check_debris(folder)
        finish(fork(single.ensure, out, spec))
        assert_same_run(folder, expected)
        shutil.rmtree(out)


def test_debris_of_a_killed_process_is_ignored_and_removed(
    fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """Half-written files and a torn last line do not reach a reader, or the run that resumes."""
    folder = reference.start_over("static", tmp_path / "out")
    records, size = folder / "records.jsonl", 4000
    process = fork(single.ensure, tmp_path / "out", reference.specs["static"])
    kill(process, records, size, 0.0)
    before = list(read_records(records))
    whole = records.read_bytes()[: records.read_bytes().rindex(b"\n") + 1]
    records.write_bytes(whole + b'{"kind": "step", "step": 99, "lo')
    for name in ("checkpoint.pt", "run.json"):
        (folder / f"{name}.part-99999").write_bytes(b"half of it")

    assert list(read_records(records)) == before
    finish(fork(single.ensure, tmp_path / "out", reference.specs["static"]))

    assert_same_run(folder, reference.folder("static"))


def test_a_run_killed_between_its_last_checkpoint_and_its_header_only_ends(
    fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """The last moment at which a process can die: all is trained, and run.json does not say so."""
    expected = reference.folder("static")
    folder = reference.start_over("static", tmp_path / "out")
    shutil.copytree(expected, folder)
    header = json.loads((folder / "run.json").read_text())
    unfinished = {"status": "running", "finished": None, "costs": {}, "probe_losses": None}
    (folder / "run.json").write_text(json.dumps(header | unfinished))
    before = (folder / "records.jsonl").read_bytes()

    finish(fork(single.ensure, tmp_path / "out", reference.specs["static"]))

    assert (folder / "records.jsonl").read_bytes() == before
    assert_same_run(folder, expected)


def test_a_finished_run_without_its_checkpoint_is_trained_again_where_it_is_needed(
    fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """A user may delete checkpoints to save room; a plan that wants their content gets it back."""
    folder = reference.start_over("static", tmp_path / "out")
    shutil.copytree(reference.folder("static"), folder)
    (folder / "checkpoint.pt").unlink()

    finish(fork(single.ensure, tmp_path / "out", reference.specs["static"]))

    assert_same_run(folder, reference.folder("static"))


def test_a_run_that_failed_on_a_full_disk_goes_on_where_there_is_room(
    fork: Fork, reference: Reference, tmp_path: Path
) -> None:
    """The reason is the system's own, in one line, and nothing half-written takes up more room."""
    folder, spec = reference.start_over("static", tmp_path / "out"), reference.specs["static"]

    process = fork(single.ensure_on_a_full_disk, tmp_path / "out", spec)
    process.join(120)

    header = json.loads((folder / "run.json").read_text())
    assert process.exitcode == 3
    assert (header["status"], header["reason"]) == ("failed", "OSError: [Errno 27] File too large")
    assert not list(folder.glob("*.part-*"))
    finish(fork(single.ensure, tmp_path / "out", spec))
    assert_same_run(folder, reference.folder("static"))
