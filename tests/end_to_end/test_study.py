"""`steelyard study` from its file to a held-out comparison, with a worker killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.tiny_study import STUDY, write_study

from .conftest import Out, command, environment, steelyard

TRIALS, STEPS = 3, 12
SLOW = """
[arms.influence]
space = "influence.toml"
[arms.uniform]
space = "static.toml"
promoted = "static_tuned"
"""


def optuna(*arguments: str, cwd: Path) -> Any:
    """Return what Optuna's own command prints, as JSON."""
    script = Path(sys.executable).with_name("optuna")
    run = subprocess.run(
        [script, *arguments, "-f", "json"], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def children(process: int) -> list[int]:
    """Return the worker processes of a command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            line = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == process and "spawn_main" in line:
            found.append(int(path.parent.name))
    return found


def running(path: Path) -> int:
    """Return how many running trials have given a sign of life, by the database alone.

    One whose worker dies before it has given any is known to be nobody's: `study retry` has it.
    """
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30) as base:
        try:
            asked = "select count(*) from trials join trial_heartbeats using (trial_id)"
            return int(base.execute(f"{asked} where state = 'RUNNING'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # no table yet


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study of two workers, of which one was killed in a trial."""
    folder = tmp_path_factory.mktemp("tuned")
    head = STUDY.replace("trials = 3", f"trials = {TRIALS}")
    study = write_study(folder, head=head, arms=SLOW)
    spec = folder / "tiny.toml"  # of trials long enough to be killed in
    spec.write_text(spec.read_text().replace(f"steps = {STEPS}", "steps = 60"))
    arguments = ("study", "run", study.name, "--out", "out", "--workers", 2, "--grace", 6)
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while running(folder / "out/studies.db") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stdout + stderr
    (folder / "told.txt").write_text(stdout + stderr)
    return folder


def trials(folder: Path, arm: str) -> list[dict[str, Any]]:
    url = f"sqlite:///{folder / 'out/studies.db'}"
    return list(optuna("trials", "--storage", url, "--study-name", f"small.{arm}", cwd=folder))


@pytest.mark.slow
def test_the_killed_workers_trial_is_retried_and_none_is_lost_or_done_twice(tuned: Path) -> None:
    told = (tuned / "told.txt").read_text()
    found = json.loads((tuned / "out/studies/small.json").read_text())
    states = Counter[str]()
    for arm in ("influence", "uniform"):
        rows = found["arms"][arm]["trials"]
        complete = [row for row in rows if row["state"] == "complete"]
        assert sorted(row["slot"] for row in complete) == list(range(TRIALS))
        states.update(row["state"] for row in rows)
        # a slot that failed is one that was done again, with its settings
        for row in rows:
            if row["state"] == "failed":
                (again,) = [one for one in complete if one["slot"] == row["slot"]]
                assert row["params"].items() <= again["params"].items()
    assert states == {"complete": 2 * TRIALS, "failed": 1}
    assert "killed by SIGKILL; what it was at will be tried again" in told
    assert "its worker has died; queued again" in told


@pytest.mark.slow
def test_plain_optuna_reads_what_the_trials_carry(tuned: Path) -> None:
    found = trials(tuned, "influence")
    url = f"sqlite:///{tuned / 'out/studies.db'}"

    best = optuna("best-trial", "--storage", url, "--study-name", "small.influence", cwd=tuned)

    complete = [trial for trial in found if trial["state"] == "COMPLETE"]
    assert len(complete) == TRIALS
    for trial in complete:
        facts = trial["user_attrs"]
        assert facts["seeds"] == [100, 101]
        assert len(facts["run_ids"]) == 2
        assert facts["tokens"] == 2 * 60 * 8 * 16
        assert facts["train_seconds"] > 0
    assert best["number"] in [trial["number"] for trial in complete]


@pytest.mark.slow
def test_no_trial_has_a_held_out_number(tuned: Path) -> None:
    out = Out(tuned / "out")
    ids = {i for trial in trials(tuned, "uniform") for i in trial["user_attrs"].get("run_ids", [])}

    assert ids
    for run_id in out.run_ids():
        splits = {record["split"] for record in out.records(run_id, "eval")}
        assert splits == {"tuning"}


@pytest.mark.slow
def test_the_same_command_again_does_nothing(tuned: Path) -> None:
    before = Out(tuned / "out").run_ids()

    again = steelyard("study", "run", "study.toml", "--out", "out", cwd=tuned)

    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("influence: trial ")  # no worker is started for nothing
    assert Out(tuned / "out").run_ids() == before


@pytest.mark.slow
def test_status_and_best_are_tables(tuned: Path) -> None:
    status = steelyard("study", "status", "study.toml", "--out", "out", cwd=tuned)
    best = steelyard("study", "best", "study.toml", "--out", "out", cwd=tuned)

    assert status.returncode == best.returncode == 0, status.stderr + best.stderr
    assert "complete" in status.stdout
    assert "settings.temperature" in best.stdout
    assert "settings.weights.c" in best.stdout


@pytest.mark.slow
def test_promoted_settings_are_compared_on_seeds_that_no_trial_used(tuned: Path) -> None:
    promoted = steelyard("study", "promote", "study.toml", "--out", "out", cwd=tuned)
    assert promoted.returncode == 0, promoted.stderr

    refused = steelyard("run", "tuned.toml", "--out", "out", "--seeds", 100, 0, cwd=tuned)
    assert refused.returncode == 2
    assert "100 was used to tune" in refused.stderr

    compared = steelyard("run", "tuned.toml", "--out", "out", cwd=tuned)
    assert compared.returncode == 0, compared.stderr
    out = Out(tuned / "out")
    header = out.ablation("tiny-tuned")
    used = {i for arm in ("influence", "uniform") for t in trials(tuned, arm)
            for i in t["user_attrs"].get("run_ids", [])}  # fmt: skip
    assert set(header["seeds"]) == {0, 1}
    for label in ("influence_tuned", "static_tuned"):
        assert header["arms"][label]["provenance"]["seeds"] == [100, 101]
        for cell in header["arms"][label]["runs"]:
            assert cell["status"] == "finished"
            assert cell["run_id"] not in used
            assert {r["split"] for r in out.records(cell["run_id"], "eval")} == {"heldout"}


def test_a_study_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    write_study(tmp_path)

    for what in ("status", "best", "retry", "promote"):
        refused = steelyard("study", what, "study.toml", "--out", "out", cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "make it by steelyard study create" in refused.stderr
    nowhere = steelyard("study", "run", "no.toml", cwd=tmp_path)
    assert nowhere.returncode == 2
    assert nowhere.stderr == ("steelyard: no.toml: no such file; give the path of a study (TOML)\n")


def test_help_of_a_group_names_its_commands_without_torch(tmp_path: Path) -> None:
    told = steelyard("study", "--help", cwd=tmp_path, python=("-X", "importtime"))

    assert told.returncode == 0
    for name in ("create", "run", "status", "best", "retry", "promote"):
        assert f"• {name} " in told.stdout
    imported = [line.rpartition("|")[2].strip() for line in told.stderr.splitlines()]
    assert "torch" not in imported
    assert "optuna" not in imported
