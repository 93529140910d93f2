"""A tiny ablation, the command line in a process of its own, and readers of what it leaves.

The ablation is trained once for all tests, also where pytest-xdist has several workers: importing
torch costs seconds in every process, and training these runs costs less than one such import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from .undisturbed import Reference

ROOT = Path(__file__).parents[2]
Fork = Callable[..., BaseProcess]
METHODS = Path(__file__).parent / "methods"
SHARED = """
target = "c"
baseline = "uniform"
device = "cpu"
precision = "float32"
threads = 1
tokenizer = { vocab_size = 320 }
model = { size = "nano" }
batch = { rows = 8, tokens = 16 }
budget = { steps = 12 }
evaluation = { every = 4, rows = 8 }

[domains]
a = { kind = "synthetic", seed = 1, num_documents = 60, words_per_document = 60 }
b = { kind = "synthetic", seed = 2, num_documents = 60, words_per_document = 60 }
c = { kind = "synthetic", seed = 3, num_documents = 60, words_per_document = 60 }
"""
ARMS = {
    "uniform": 'method = "static"',
    "half": 'method = "static"\nsettings = { weights = "target", share = 0.5 }\ncontrol = true',
    "equal": 'method = "static"\nsettings = { weights = { a = 1, b = 1, c = 1 } }',
    "again": 'method = "static"\ndata_seed = 1000',
    "influence": 'method = "influence"\n'
    "settings = { every = 4, rows = 2, probe_rows = 4, estimator = { check_rows = 2 } }",
    "doremi": 'method = "doremi"',
}


def write_spec(
    path: Path, arms: Mapping[str, str], seeds: tuple[int, ...] = (0, 1), head: str = ""
) -> Path:
    """Write a spec whose name is that of its file."""
    tables = "".join(f"\n[arms.{label}]\n{text}\n" for label, text in arms.items())
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{head}\nname = "{path.stem}"\nseeds = {list(seeds)}\n{SHARED}{tables}')
    return path


def environment(**more: str) -> dict[str, str]:
    """Return what a user's shell would have, with the checkout and the test methods importable."""
    # without bytecode every one of these processes would compile torch's sources anew
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PYTHONPATH": f"{ROOT}{os.pathsep}{METHODS}", "COLUMNS": "120"} | more


def command(*arguments: object, python: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of `steelyard`, as the console script would run it."""
    return [sys.executable, *python, "-m", "harness.cli", *map(str, arguments)]


def steelyard(
    *arguments: object, cwd: Path, python: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `steelyard` to its end."""
    return subprocess.run(
        command(*arguments, python=python),
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@dataclass(frozen=True)
class Out:
    """Reads an output folder with nothing of the project's own code."""

    folder: Path

    def ablation(self, name: str) -> dict[str, Any]:
        """Return an ablation's file."""
        return self._json(self.folder / "ablations" / f"{name}.json")

    def cell(self, name: str, label: str, seed: int) -> dict[str, Any]:
        """Return what an ablation says of one arm at one seed."""
        cells = self.ablation(name)["arms"][label]["runs"]
        return next(cell for cell in cells if cell["seed"] == seed)

    def header(self, run_id: str) -> dict[str, Any]:
        """Return a run's header."""
        return self._json(self.folder / "runs" / run_id / "run.json")

    def records(self, run_id: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return a run's records, all or those of one kind."""
        text = (self.folder / "runs" / run_id / "records.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        return [record for record in found if kind in (None, record["kind"])]

    def main(self, label: str, seed: int, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the records of an arm's main run in the tiny ablation."""
        return self.records(self.cell("tiny", label, seed)["run_id"], kind)

    def auxiliary(self, label: str, seed: int) -> dict[str, str]:
        """Return the auxiliary runs of an arm in the tiny ablation: run id by role."""
        return {run["role"]: run["run_id"] for run in self.cell("tiny", label, seed)["auxiliary"]}

    def run_ids(self) -> set[str]:
        """Return the ids of all runs, of every state."""
        return {path.name for path in (self.folder / "runs").iterdir()}

    @staticmethod
    def _json(path: Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(path.read_text())
        return content


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without the only key that a clock may change."""
    return [{key: value for key, value in r.items() if key != "seconds"} for r in records]


@dataclass(frozen=True)
class Finished:
    """The tiny ablation after its first run."""

    spec: Path
    out: Out
    stdout: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return the tiny ablation: six arms, two seeds, twelve steps. To read, never to write to."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, told = shared / "with a space", shared / "told.txt"
    with FileLock(shared / "tiny.lock"):
        if not told.exists():
            folder.mkdir(exist_ok=True)
            spec = write_spec(folder / "tiny.toml", ARMS)
            # in another folder, by a relative path, and to a folder that does not exist yet
            result = steelyard("run", spec.name, "--out", "new/out", "--jobs", "2", cwd=folder)
            assert result.returncode == 0, result.stderr
            told.write_text(result.stdout)
    return Finished(folder / "tiny.toml", Out(folder / "new/out"), told.read_text())


@pytest.fixture(scope="session")
def fork() -> Iterator[Fork]:
    """Return a function that starts a process which has already imported all that a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.end_to_end.single"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # where the server looks

        def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
            process = context.Process(target=function, args=arguments)
            process.start()
            return process

        yield start


@pytest.fixture(scope="session")
def reference(fork: Fork, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return runs that nobody disturbed, for those that are killed to be compared with."""
    from .undisturbed import train

    return train(fork, tmp_path_factory.mktemp("undisturbed"))


def finish(process: BaseProcess) -> None:
    """Wait for a process that must succeed."""
    process.join(120)
    assert process.exitcode == 0
