"""Whole ablations in W&B, by the real SDK and a server on loopback, and in TensorBoard.

The runs come from the tiny ablation that is trained already, so that no test waits for torch; the
slow ones train.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.trackers import flatten
from tests.wandb_server import KEY, ReceivedRun, WandbServer, isolated_environment

from .conftest import ARMS, ROOT, Finished, Out, command, write_spec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")


def run(
    *arguments: object, cwd: Path, env: dict[str, str], seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, in the environment of a machine of its own."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env={**env, "PYTHONPATH": paths, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def prepare(
    finished: Finished, tmp_path: Path, labels: tuple[str, ...], trackers: str = '["wandb"]'
) -> tuple[Path, Out]:
    """Return a spec of runs that are all trained, and a folder that holds them."""
    subprocess.run(["cp", "-a", finished.out.folder, tmp_path / "out"], check=True)
    arms = {label: ARMS[label] for label in labels}
    spec = write_spec(tmp_path / "tracked.toml", arms, seeds=(0,), head=f"trackers = {trackers}")
    return spec, Out(tmp_path / "out")


def by_job(server: WandbServer) -> dict[str | None, list[ReceivedRun]]:
    """Sort what a server has by job type."""
    found: dict[str | None, list[ReceivedRun]] = {}
    for received in server.runs.values():
        found.setdefault(received.job_type, []).append(received)
    return found


def check_whole(received: ReceivedRun, out: Out) -> None:
    """Compare a run at the server with its records on disk."""
    header, records = out.header(received.name), out.records(received.name)
    assert (received.is_complete, received.exit_code) == (True, 0)
    assert received.config.items() >= flatten(header["spec"]).items()
    logged = [row for row in received.history if "train/loss" in row]
    by_tokens = {r["tokens"]: r for r in records if r["kind"] == "step"}
    assert [row["tokens"] for row in logged][-1] == max(by_tokens)
    for row in logged:
        step = by_tokens[row["tokens"]]
        assert row["train/loss"] == pytest.approx(step["loss"])
        weights = [row[f"weights/{domain}"] for domain in header["domains"]]
        assert weights == pytest.approx(step["weights"])
    for record in (r for r in records if r["kind"] == "eval"):
        name = f"{record['split']}/bits_per_byte/{record['domain']}"
        (value,) = [row[name] for row in received.history if row["_step"] == record["step"]]
        assert value == pytest.approx(record["bits_per_byte"])
    assert received.summary["overhead/flops"] == header["costs"]["mixer"]["flops"]


def check_report(server: WandbServer, out: Out) -> None:
    """Compare the report at the server with its files on disk."""
    (report,) = by_job(server)["report"]
    (artifact,) = [a for a in server.artifacts if a.type == "report"]
    folder = out.folder / "report/tracked"
    assert report.group == "tracked"
    assert (artifact.name, artifact.run) == ("tracked-report", report.name)
    assert artifact.state == "COMMITTED"
    assert artifact.files == {p.name: p.read_bytes() for p in folder.glob("[afrt]*")}
    names = {"arms.csv", "figures.json", "report.html", "report.md", "results.csv"}
    names |= {"results.parquet", "table.tex"}
    pictures = {name for name in artifact.files if name.endswith(".svg")}
    assert set(artifact.files) - pictures == names
    assert all(f"({name})" in (folder / "report.md").read_text() for name in pictures)
    assert pictures
    media = {name.split("/")[1]: content for name, content in report.files.items() if "/" in name}
    assert media["html"] == (folder / "report.html").read_bytes()
    assert report.history[0]["results"]["nrows"] == len(
        (folder / "results.csv").read_text().splitlines()[1:]
    )


def test_an_ablation_is_in_wandb_whole_and_once(finished: Finished, tmp_path: Path) -> None:
    spec, out = prepare(finished, tmp_path, ("uniform", "influence"))
    arguments = command("run", spec, "--out", out.folder)
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        result = run(*arguments, cwd=tmp_path, env=env)
        check_report(server, out)
        told = len(server.operations)
        again = run(*arguments, cwd=tmp_path, env=env)

        assert (result.returncode, result.stderr) == (0, "")
        assert (again.returncode, again.stderr) == (0, "")
        assert server.operations[told:] == ["Viewer"]  # is it there? and nothing to tell it
    jobs = by_job(server)
    assert server.unknown == []
    assert {job: len(runs) for job, runs in jobs.items()} == {
        "uniform": 1,
        "influence": 1,
        "report": 1,
    }
    assert {received.group for received in server.runs.values()} == {"tracked"}
    for label in ("uniform", "influence"):
        (received,) = jobs[label]
        assert received.name == out.cell("tracked", label, 0)["run_id"]
        assert received.display_name == f"{label}-seed0"
        check_whole(received, out)
    refreshed = {name for row in jobs["influence"][0].history for name in row}
    notes = ("raw_scores/a", "standard_errors/c", "relative_step", "step_disagreement")
    assert {f"notes/rebalance/{note}" for note in notes} <= refreshed
    assert "heldout/bits_per_byte/c" in refreshed
    assert set(jobs["uniform"][0].summary["heldout/bits_per_byte/c"]) == {"last", "min"}
    assert list((tmp_path / "home").iterdir()) == []


def test_without_a_server_all_goes_offline_and_can_be_synced(
    finished: Finished, tmp_path: Path
) -> None:
    """DoReMi's reference and proxy runs are runs of their own here too."""
    spec, out = prepare(finished, tmp_path, ("uniform", "doremi"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    env = isolated_environment(tmp_path / "home", WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    began = time.monotonic()
    result = run(*command("run", spec, "--out", out.folder), cwd=tmp_path, env=env)
    lasted = time.monotonic() - began

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("W&B is not reachable") == 1
    assert lasted < 60
    folders = sorted((out.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 5  # two arms, two auxiliary runs, the report
    with WandbServer() as server:
        wandb = (sys.executable, "-m", "wandb", "sync")
        synced = run(*wandb, *folders, cwd=tmp_path, env=server.environment(tmp_path / "home"))

        assert synced.returncode == 0, synced.stderr
    jobs = by_job(server)
    assert server.unknown == []
    assert {job: len(runs) for job, runs in jobs.items()} == {
        "uniform": 1,
        "doremi": 1,
        "auxiliary": 2,
        "report": 1,
    }
    for label in ("uniform", "doremi"):
        check_whole(jobs[label][0], out)
    auxiliary = {r["run_id"] for r in out.cell("tracked", "doremi", 0)["auxiliary"]}
    assert {received.name for received in jobs["auxiliary"]} == auxiliary
    check_report(server, out)


@pytest.mark.parametrize(
    ("flags", "trackers", "told"),
    [
        (("--wandb-mode", "online"), "[]", "--wandb-mode: W&B is not among trackers"),
        ((), '["wandb"]', "WANDB_MODE is 'on'; use online, offline or disabled"),
    ],
)
def test_a_wrong_mode_is_one_line(
    tmp_path: Path, flags: tuple[str, ...], trackers: str, told: str
) -> None:
    spec = write_spec(tmp_path / "tiny.toml", ARMS, head=f"trackers = {trackers}")
    env = isolated_environment(tmp_path / "home", WANDB_MODE="on")
    result = run(*command("run", spec, *flags), cwd=tmp_path, env=env)

    assert result.returncode == 2
    assert result.stderr.startswith(f"steelyard: {told}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_runs_that_train_are_in_wandb_and_in_tensorboard(tmp_path: Path) -> None:
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    trackers = '["wandb", "tensorboard"]' if tensorboard else '["wandb"]'
    arms = {label: ARMS[label] for label in ("uniform", "influence", "doremi")}
    spec = write_spec(tmp_path / "tracked.toml", arms, seeds=(0,), head=f"trackers = {trackers}")
    with WandbServer() as server:
        env = server.environment(tmp_path / "home")
        arguments = command("run", spec, "--out", "out", "--jobs", 2)
        result = run(*arguments, cwd=tmp_path, env=env)

        assert (result.returncode, result.stderr) == (0, "")
    out, jobs = Out(tmp_path / "out"), by_job(server)
    assert server.unknown == []
    assert sorted(len(runs) for runs in jobs.values()) == [1, 1, 1, 1, 2]
    assert len(jobs["auxiliary"]) == 2
    for label in arms:
        check_whole(jobs[label][0], out)
    check_report(server, out)
    if tensorboard:
        folders = {path.parent.name for path in out.folder.glob("tensorboard/tracked/*/events*")}
        assert {f"{label}-seed0" for label in arms} < folders
        assert len(folders) == 5


@pytest.mark.slow
@pytest.mark.parametrize("silent_after", ["", "Viewer"])
def test_a_silent_server_is_one_warning_for_the_whole_ablation(
    tmp_path: Path, silent_after: str
) -> None:
    """Silent from the start, and only after it was asked whether it is there."""
    arms = {label: ARMS[label] for label in ("uniform", "equal", "half")}
    spec = write_spec(tmp_path / "tracked.toml", arms, head='trackers = ["wandb"]')
    with WandbServer(silent_after) as server:
        env = server.environment(tmp_path / "home")
        arguments = command("run", spec, "--out", "out", "--jobs", 2)
        result = run(*arguments, cwd=tmp_path, env=env)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("W&B is not reachable") == 1
    assert server.runs == {}
    assert len(list((tmp_path / "out/wandb").glob("offline-run-*"))) == 7
