"""Kill -9 at any moment: the run resumes to equal bits in every tensor and every record."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.doremi import DoReMi
from baselines.static import Static
from harness.cli import find_method
from harness.corpus import corpus_id, open_corpus
from harness.records import read_records
from harness.resolve import resolve
from harness.spec import RunSpec
from harness.specfile import load_ablation

from . import single
from .conftest import ARMS, Fork, finish, timeless, write_spec

STEPS = 40
KINDS = ("static", "influence", "proxy")


@dataclass(frozen=True)
class Reference:
    """Uninterrupted runs of each kind, in one folder."""

    out: Path
    specs: dict[str, RunSpec]

    def folder(self, kind: str, out: Path | None = None) -> Path:
        """Return where a run lies, or would lie in another output folder."""
        return (out or self.out) / "runs" / self.specs[kind].run_id

    def start_over(self, kind: str, out: Path) -> Path:
        """Copy everything but the run of `kind` to `out`; return where that run will be."""
        ignored = shutil.ignore_patterns(*(self.specs[k].run_id for k in KINDS))
        shutil.copytree(self.out, out, ignore=ignored)
        return self.folder(kind, out)


@pytest.fixture(scope="session")
def reference(fork: Fork, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return runs that nobody disturbed: static, influence, and DoReMi's proxy."""
    folder = tmp_path_factory.mktemp("resume")
    path = write_spec(folder / "tiny.toml", ARMS)
    overrides = [f"--budget.steps={STEPS}", "--arms.influence.settings.every=6"]
    ablation = load_ablation(path, overrides, find_method)
    resolved = resolve(ablation, corpus_id(ablation.corpus))
    open_corpus(ablation.corpus, folder / "out/corpora")
    asked = replace(resolved["doremi", 0], label="")
    first = asked.auxiliary("reference", mixer=Static(weights="natural"), measure_probes=True)
    finish(fork(single.ensure, folder / "out", first))
    specs = {
        "static": replace(resolved["uniform", 0], measure_probes=True),
        "influence": resolved["influence", 0],
        "proxy": asked.auxiliary("proxy", mixer=proxy_of(first)),
    }
    for spec in specs.values():
        finish(fork(single.ensure, folder / "out", spec))
    return Reference(folder / "out", specs)


def proxy_of(first: RunSpec) -> Any:
    """Return the mixer that DoReMi's own plan gives its proxy run."""

    class AskedForProxyError(Exception):
        pass

    def run(wanted: RunSpec) -> Any:
        if wanted.label == "proxy":
            raise AskedForProxyError(wanted.mixer)
        return first

    with pytest.raises(AskedForProxyError) as asked:
        DoReMi().plan(first, run)
    return asked.value.args[0]


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


def assert_same_run(folder: Path, expected: Path) -> None:
    """Check that two finished runs are equal in everything but the time that they took."""
    records = [list(read_records(f / "records.jsonl")) for f in (folder, expected)]
    assert timeless(records[0]) == timeless(records[1])
    headers = [json.loads((f / "run.json").read_text()) for f in (folder, expected)]
    for header in headers:
        del header["started"], header["finished"]
        header["costs"] = work(header["costs"])
    assert headers[0] == headers[1]
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (folder, expected)]
    for state in states:
        assert state.keys() == {
            "step", "model", "optimizer", "mixer", "seen", "cost", "records_bytes"
        }  # fmt: skip
        del state["records_bytes"]  # the digits of `seconds` take more or less room
        state["cost"] = work(state["cost"])
    assert_equal(*states, "checkpoint")
    assert not list(folder.glob("*.part-*"))


def work(costs: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the part of the accounts that no clock and no allocator decides."""
    return {account: (cost["flops"], cost["tokens"]) for account, cost in costs.items()}


def assert_equal(ours: Any, expected: Any, where: str) -> None:
    """Compare nested containers of tensors and plain values, bit for bit."""
    assert type(ours) is type(expected), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == expected.dtype, where
        assert torch.equal(ours, expected), where
    elif isinstance(ours, dict):
        assert ours.keys() == expected.keys(), where
        for key in ours:
            assert_equal(ours[key], expected[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(expected), where
        for i, pair in enumerate(zip(ours, expected, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert ours == expected, where


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
