"""`steelyard sweep local`: what it starts, what it draws, what it keeps; with programs of seconds.

The program stands for any: it writes its rows as `steelyard study trial` does, and imports nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from sweeps.launch import Launch, command_line
from sweeps.sweepfile import load_sweep

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, sys, time
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
x, pause = float(given["x"]), float(given.get("pause", 0))
print("at", x, flush=True)
if x == float(given.get("bad", -1)):
    sys.exit("x is " + given["x"])
for step in range(4):
    with open(os.environ["STEELYARD_SWEEP_ROWS"], "a") as file:
        file.write(json.dumps({"step": step, "loss": 10 - step + x}) + "\\n")
    time.sleep(pause)
with open("done", "a") as file:
    file.write(given["x"] + "\\n")
"""
SWEEP: dict[str, Any] = {
    "name": "toy",
    "program": "program.py",
    "method": "grid",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {"x": {"values": [3, 1, 2, 4]}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder with the program in it, to be in."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def local(*arguments: str) -> int:
    return main(["sweep", "local", "toy.yaml", "--out", "out", *arguments])


def done(folder: Path) -> list[str]:
    """Return the x of each run that came to its end."""
    path = folder / "done"
    return path.read_text().split() if path.exists() else []


def trials(folder: Path) -> list[dict[str, Any]]:
    """Return the sweep's trials as Optuna's own command shows them."""
    program = [sys.executable, "-c", "from optuna.cli import main; main()"]
    command = [*program, "trials", "--study-name", "sweep.toy"]
    url = f"sqlite:///{folder}/out/studies.db"
    shown = subprocess.run([*command, "--storage", url, "-f", "json"], capture_output=True)
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


def test_a_grid_is_run_once_best_first_and_a_second_time_not_at_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder)

    assert local() == 0
    told = capsys.readouterr().out
    assert sorted(done(folder)) == ["1", "2", "3", "4"]
    table = told.partition("best first")[2]
    assert [line.split("│")[3].strip() for line in table.splitlines() if "complete" in line] == [
        "8.0000",
        "9.0000",
        "10.0000",
        "11.0000",
    ]
    assert "wandb sync out/wandb/offline-run-*" in told
    assert local() == 0
    assert len(done(folder)) == 4


def test_a_failing_run_is_a_failed_trial_and_the_sweep_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, parameters={**SWEEP["parameters"], "bad": {"value": 2}})

    assert local() == 0
    told = capsys.readouterr().out
    assert sorted(done(folder)) == ["1", "3", "4"]
    assert told.count("failed: exit code 1: x is 2 (all of it: out/wandb/sweep-toy/") == 1
    assert told.count("│ failed   │") == 1
    states = [trial["state"] for trial in trials(folder)]
    assert sorted(states) == ["COMPLETE"] * 3 + ["FAIL"]


def test_a_sweep_of_failures_alone_is_one_too(folder: Path) -> None:
    written(folder, parameters={"x": {"values": [5]}, "bad": {"value": 5}})

    assert local() == 1


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_random_and_bayes_end_at_their_cap_and_go_on_with_new_draws(
    folder: Path, method: str
) -> None:
    drawn = {"x": {"min": 0.0, "max": 10.0}}
    written(folder, method=method, run_cap=2, parameters=drawn)

    assert local() == 0
    assert len(done(folder)) == 2
    assert local("--runs", "4") == 0
    assert len({*done(folder)}) == 4


def test_hyperband_ends_runs_that_are_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {"x": {"values": [1, 7, 8, 9]}, "pause": {"value": 0.3}}
    rule = {"type": "hyperband", "min_iter": 1, "max_iter": 3, "s": 1, "eta": 3}
    written(folder, parameters=parameters, early_terminate=rule)

    assert local() == 0
    told = capsys.readouterr().out
    assert told.count("ended early at") == told.count("│ pruned") >= 1
    assert len(done(folder)) == 4 - told.count("│ pruned")


def test_a_stopped_sweep_ends_its_run_and_takes_it_up_again(folder: Path) -> None:
    parameters = {"x": {"values": [1, 2]}, "pause": {"value": 0.5}}
    written(folder, parameters=parameters)
    command = [sys.executable, "-m", "harness.cli", "sweep", "local", "toy.yaml", "--out", "out"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    while not list(folder.glob("out/wandb/sweep-toy/*.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert told.rstrip().endswith("stopped; the same command goes on from what is saved")
    assert done(folder) == []
    assert local() == 0
    assert sorted(done(folder)) == ["1", "2"]


@pytest.mark.parametrize(
    ("changes", "arguments", "told"),
    [
        ({"method": "random", "parameters": {"x": {"value": 1}}}, (), "run_cap: is missing, and a"),
        ({}, ("--runs", "0"), "--runs: must be at least 1, got 0"),
        ({"method": "best"}, (), "toy.yaml: method: input should be"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    written(folder, **changes)

    assert local(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_another_sweep_of_the_same_name_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, parameters={"x": {"values": [1]}})
    assert local() == 0
    written(folder, parameters={"x": {"values": [1, 2]}})

    assert local() == 2
    assert "holds another sweep 'toy', which differs in parameters" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
@pytest.mark.parametrize("macro", ["args", "args_no_hyphens", "args_no_boolean_flags", "args_json"])
def test_macros_are_expanded_as_the_agent_does(folder: Path, macro: str) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"a.b": 1, "c": 0.5, "d": True, "e": False, "f": None, "g": "a b"}
    words = ["${env}", "${interpreter}", "${program}", "x", f"${{{macro}}}"]
    sweep = load_sweep(written(folder, command=words))
    agents = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})

    expected = ["/usr/bin/env", "python", "program.py", "x", *agents[macro]]
    assert command_line(sweep, values) == expected


def test_a_run_sees_what_an_agent_would_tell_it_and_no_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "of another")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    words = ["${env}", "${interpreter}", "-c", "import os, json; print(json.dumps({**os.environ}))"]
    sweep = load_sweep(written(folder, command=words, project="theirs", entity="them"))
    launch = Launch(sweep, folder / "out", "abc", {"x": 1})

    assert launch.run(lambda row: False) == 0
    env = json.loads(launch.log.read_text())
    assert {
        k: v for k, v in env.items() if k.startswith("WANDB_") and "SWEEP" not in k
    }.items() >= {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder / "out"),
        "WANDB_RUN_ID": "abc",
        "WANDB_RUN_GROUP": "toy",
        "WANDB_PROJECT": "mine",
        "WANDB_ENTITY": "them",
    }.items()
    assert "WANDB_SWEEP_ID" not in env
    content = yaml.safe_load(Path(env["WANDB_SWEEP_PARAM_PATH"]).read_text())
    assert content["x"] == {"value": 1}
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_another_program_needs_nothing_but_wandb(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings come by W&B's config, and its metric is read from its offline run."""
    (folder / "program.py").write_text(
        "import wandb\n"
        "with wandb.init() as run:\n"
        "    for step in range(3):\n"
        "        run.log({'loss': run.config['x'] - step})\n"
    )
    rule = {"type": "hyperband", "min_iter": 1}
    command = ["${env}", "${interpreter}", "${program}"]
    parameters = {"x": {"values": [7]}}
    written(folder, command=command, parameters=parameters, early_terminate=rule)

    assert local() == 0
    told = capsys.readouterr().out
    assert "hyperband is off: this program writes no rows to STEELYARD_SWEEP_ROWS" in told
    (trial,) = trials(folder)
    assert list(trial["value"].values()) == [5.0]
    assert len(list(folder.glob(f"out/wandb/offline-run-*-{trial['user_attrs']['run_id']}"))) == 1
