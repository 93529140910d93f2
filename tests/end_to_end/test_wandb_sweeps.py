"""Sweeps by the real `wandb sweep` and `wandb agent`, and without a server, on a tiny spec.

A server on loopback stands for W&B's; see tests/wandb_sweep_server.py for what it answers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import find_method
from sweeps.studyfile import load_study
from sweeps.wandb_files import write_sweeps
from tests.wandb_server import ReceivedRun, WandbServer, isolated_environment

from .conftest import ARMS, METHODS, ROOT, write_spec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")

WANDB = (sys.executable, "-m", "wandb")
STUDY = """
name = "small"
spec = "tiny.toml"
trials = {trials}
seeds = [100, 101]
[arms.{arm}]
space = "{arm}.toml"
wandb = "grid"
"""
SPACES = {
    "influence": """
method = "influence"
[parameters]
"settings.every" = { type = "choice", values = [2, 4] }
"settings.temperature" = { type = "float", low = 1.0, high = 4.0, log = true }
""",
    "raises": """
method = "misbehaving:Raises"
[parameters]
"settings.step" = { type = "choice", values = [100, 5, 101] }
""",
}
RAISES = {"raises": 'method = "misbehaving:Raises"', "uniform": 'method = "static"'}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a study of one arm, and its sweep, with changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(METHODS)

    def make(arm: str, **changes: Any) -> Path:
        arms = RAISES if arm == "raises" else ARMS
        write_spec(tmp_path / "tiny.toml", arms, head='trackers = ["wandb"]')
        (tmp_path / f"{arm}.toml").write_text(SPACES[arm])
        trials = {"influence": 6, "raises": 3}[arm]  # as many as the grid has points
        (tmp_path / "study.toml").write_text(STUDY.format(arm=arm, trials=trials))
        study = load_study(Path("study.toml"), find_method)
        (path,) = write_sweeps(study, Path("sweeps"))
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
        return path

    return make


@pytest.fixture
def on_path(tmp_path: Path) -> str:
    """Return a PATH on which `steelyard` is this checkout's, whatever is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "steelyard"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness.cli "$@"\n')
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def start(words: tuple[object, ...], env: dict[str, str], path: str) -> subprocess.Popen[str]:
    places = {"PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{METHODS}", "COLUMNS": "200"}
    return subprocess.Popen(
        [str(word) for word in words],
        env={**env, **places},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a process; return what it printed."""
    try:
        return process.communicate(timeout=200)
    finally:
        process.kill()


def make_sweep(path: Path, env: dict[str, str], on_path: str) -> str:
    """Make a sweep by the SDK's own command; return the path that it gives to agents."""
    process = start((*WANDB, "sweep", path), env, on_path)
    _, told = finish(process)
    assert process.returncode == 0, told
    found = re.search(r"Run sweep agent with: wandb agent (\S+)", told)
    assert found is not None, told
    return found[1]


def of_sweep(server: WandbServer) -> Iterator[ReceivedRun]:
    return (run for run in server.runs.values() if run.sweep)


def check_trial(server: WandbServer, trial: ReceivedRun, out: Path) -> None:
    """Compare what the sweep has of a trial with the records on disk."""
    results = [json.loads((out / "runs" / r / "run.json").read_text()) for r in ids(trial)]
    first, *_ = [run for run in results if run["spec"]["seed"] == 100]
    text = (out / "runs" / first["run_id"] / "records.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    steps = {r["step"]: r for r in records if r["kind"] == "step"}
    evals = [r for r in records if r["kind"] == "eval" and r["domain"] == "c"]

    *rows, last = trial.history
    curve = [row for row in rows if "tuning/objective" in row]
    assert [row["_step"] for row in curve] == [record["step"] for record in evals]
    for row, record in zip(curve, evals, strict=True):
        assert row["tuning/objective"] == pytest.approx(record["nats_per_token"])
        assert row["tokens"] == record["tokens"]
        weights = [row.get(f"weights/{domain}") for domain in "abc"]
        assert weights == (steps[row["_step"]]["weights"] if row["_step"] else [None] * 3)
    assert len({json.dumps([row.get(f"weights/{d}") for d in "abc"]) for row in rows}) > 2
    mean = sum(trial.summary["trial/losses"]) / 2
    assert last["tuning/objective"] == pytest.approx(mean)
    assert trial.summary["tuning/objective"] == pytest.approx(mean)
    assert trial.summary["overhead/seconds"] > 0
    members = [server.runs[run_id] for run_id in ids(trial)]
    assert {run.config["seed"] for run in members} == {100, 101}
    for run in members:
        assert (run.sweep, run.group, run.job_type) == (None, trial.group, "influence")
        assert run.config["trial"] == trial.name
        assert (run.is_complete, run.exit_code) == (True, 0)


def ids(trial: ReceivedRun) -> list[str]:
    found: list[str] = trial.summary["trial/run_ids"]
    return found


@pytest.mark.slow
def test_a_real_agent_runs_trials_of_a_sweep(
    tmp_path: Path, write: Callable[..., Path], on_path: str
) -> None:
    path = write("influence")
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        sweep = make_sweep(path, env, on_path)
        process = start((*WANDB, "agent", "--count", 2, sweep), env, on_path)
        _, told = finish(process)

        assert process.returncode == 0, told
    assert server.unknown == []
    assert sweep.split("/")[:2] == ["local", "steelyard"]
    trials = list(of_sweep(server))
    (received,) = server.sweeps.values()
    assert [trial.name for trial in trials] == list(received.handed_out)
    assert len(server.runs) == 6
    for trial in trials:
        assert (trial.is_complete, trial.exit_code) == (True, 0)
        assert (trial.group, trial.project) == ("small.influence", "steelyard")
        assert trial.config.items() >= received.handed_out[trial.name].items()
        check_trial(server, trial, tmp_path / "runs")


def test_what_the_server_does_not_know_is_a_failure_that_names_it(
    tmp_path: Path, write: Callable[..., Path], on_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("influence")
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        sweep = make_sweep(path, env, on_path)
        monkeypatch.setattr(server, "_on_CreateAgent", None, raising=False)
        process = start((*WANDB, "agent", sweep), env, on_path)
        _, told = finish(process)

    assert process.returncode != 0
    assert {*server.unknown} == {"CreateAgent"}
    assert "not known to the tests' server: CreateAgent" in told


@pytest.mark.slow
def test_a_run_that_its_sweep_stops_saves_itself_and_is_no_failure(
    tmp_path: Path, write: Callable[..., Path], on_path: str
) -> None:
    """The trial ends by the agent's signal: of any other end the settings are to blame."""
    path = write("influence", run_cap=1)
    spec = tmp_path / "tiny.toml"
    spec.write_text(spec.read_text().replace("steps = 12", "steps = 100_000"))
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        sweep = make_sweep(path, env, on_path)
        words = (*WANDB, "agent", "--max-consecutive-failed-runs", 1, sweep)
        process = start(words, env, on_path)
        while not any(path.stat().st_size for path in tmp_path.glob("runs/runs/*/records.jsonl")):
            assert process.poll() is None
            time.sleep(0.1)
        server.stop_asked.add("sweep0-run0")
        _, told = finish(process)

        assert process.returncode == 0, told
    assert server.unknown == []
    assert "stopped; the same command goes on from what is saved" in told
    assert "consecutive failed runs" not in told
    (trial,) = of_sweep(server)
    assert (trial.exit_code, trial.summary["status"]) == (255, "stopped")
    assert trial.summary["tuning/objective"] < 6
    (folder,) = (tmp_path / "runs/runs").iterdir()
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert (folder / "checkpoint.pt").exists()
    assert server.runs[folder.name].is_complete


@pytest.mark.slow
def test_two_agents_share_a_sweep_and_survive_a_failing_trial(
    tmp_path: Path, write: Callable[..., Path], on_path: str
) -> None:
    path = write("raises")
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        sweep = make_sweep(path, env, on_path)
        agents = [start((*WANDB, "agent", sweep), env, on_path) for _ in range(2)]
        told = [finish(agent)[1] for agent in agents]

        assert [agent.returncode for agent in agents] == [0, 0], told
    assert server.unknown == []
    (received,) = server.sweeps.values()
    assert sorted(s["settings.step"] for s in received.handed_out.values()) == [5, 100, 101]
    assert all(received.by_agent.values()), "one agent has done everything"
    ends = {run.config["settings.step"]: run.exit_code for run in of_sweep(server)}
    assert ends == {5: 1, 100: 0, 101: 0}
    assert sum("the trial failed: ValueError: no weights" in text for text in told) == 1


@pytest.mark.slow
def test_a_sweep_without_a_server_is_synced_later(
    tmp_path: Path, write: Callable[..., Path], on_path: str
) -> None:
    path = write("influence", method="random")
    env = isolated_environment(tmp_path / "home")
    words = (sys.executable, "-m", "harness.cli", "sweep", "local", path, "--out", "out")
    process = start((*words, "--runs", 1), env, on_path)
    shown, told = finish(process)

    assert (process.returncode, told) == (0, "")
    assert "wandb sync out/wandb/offline-run-*" in shown
    assert not (tmp_path / "runs").exists()
    folders = sorted((tmp_path / "out/wandb").glob("offline-run-*"))
    assert len(folders) == 3
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        synced = start((*WANDB, "sync", *folders), env, on_path)
        _, told = finish(synced)

        assert synced.returncode == 0, told
    assert server.unknown == []
    (trial,) = [run for run in server.runs.values() if run.job_type == "trial"]
    assert (trial.sweep, trial.group) == (None, "small.influence")
    check_trial(server, trial, tmp_path / "out")
