"""`steelyard study trial`: every seed, one line of JSON; stopped, failed, refused as promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.trackers import AgentRun, take_agent_run

from .tiny_study import SPEC, STUDY, tiny_study, write_study

ROOT = Path(__file__).parents[2]
STEELYARD = [sys.executable, "-m", "harness.cli"]
OPTUNA = [sys.executable, "-c", "from optuna.cli import main; main()"]
ARM = '[arms.uniform]\nspace = "static.toml"\n'
SETTINGS = [f"--settings.weights.{domain}=0.5" for domain in "abc"]
TWO = STUDY.replace("trials = 3", "trials = 2")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder, shared so that the corpus is built once."""
    return tmp_path_factory.mktemp("out")


def trial(path: Path, out: Path, *options: str, arm: str = "uniform") -> int:
    return main(["study", "trial", str(path), arm, "--out", str(out), *options])


def run(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **paths, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_trial_is_every_seed_and_one_line_of_json(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, arms=ARM)

    assert trial(path, out, *SETTINGS) == 0
    told = capsys.readouterr()
    assert told.out.count("\n") == 1
    result = json.loads(told.out)
    assert result["seeds"] == [100, 101]
    assert result["loss"] == pytest.approx(sum(result["losses"]) / 2)
    assert result["tokens"] == 2 * 12 * 8 * 16
    for run_id, loss in zip(result["run_ids"], result["losses"], strict=True):
        lines = (out / "runs" / run_id / "records.jsonl").read_text().splitlines()
        evals = [r for r in map(json.loads, lines) if r["kind"] == "eval"]
        assert {record["split"] for record in evals} == {"tuning"}
        last = [r for r in evals if r["step"] == 12 and r["domain"] == "c"]
        assert [record["nats_per_token"] for record in last] == [loss]
    assert set(result) == {"loss", "losses", "seeds", "run_ids", "tokens", "train_seconds",
                           "overhead_seconds", "overhead_share",
                           "mean_overhead_seconds", "runs"}  # fmt: skip
    assert f"uniform: tuning loss {result['loss']:.4f}, mean of 2 seeds" in told.err


def test_settings_as_json_are_the_same_trial(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, arms=ARM)
    params = {f"settings.weights.{domain}": 0.5 for domain in "abc"}
    assert trial(path, out, *SETTINGS) == 0
    first = json.loads(capsys.readouterr().out)

    assert trial(path, out, "--params", json.dumps(params)) == 0
    assert json.loads(capsys.readouterr().out)["run_ids"] == first["run_ids"]


@pytest.mark.parametrize(
    ("arm", "options", "told"),
    [
        ("half", SETTINGS, "ARM: 'half' is not tuned by this study; choose from uniform"),
        ("uniform", SETTINGS[1:], "--settings.weights.a is missing; add --settings.weights.a=0.05"),
        ("uniform", [*SETTINGS, "--settings.x=1"], "--settings.x is not in the search space"),
        ("uniform", ["--params", "{"], "--params: is no JSON"),
        ("uniform", [*SETTINGS, "--number", "0"], "--storage: sqlite:///"),
    ],
)
def test_a_mistake_is_one_line_before_any_compute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arm: str, options: list[str], told: str
) -> None:
    path = write_study(tmp_path, arms=ARM)
    (tmp_path / "out").mkdir()

    assert trial(path, tmp_path / "out", *options, arm=arm) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"steelyard: {told}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert {p.name for p in (tmp_path / "out").iterdir()} == set()


def test_a_failing_trial_is_one_line_and_exit_code_1(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, arms=ARM)
    spec = SPEC.replace("threads = 1", "threads = 1\nmax_repetitions = 0.01")
    (tmp_path / "tiny.toml").write_text(spec)

    assert trial(path, out, *SETTINGS) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = [s for s in told.err.splitlines() if s.startswith("steelyard: ")]
    assert "the trial failed: domain" in line
    assert "over max_repetitions = 0.01" in line


def test_an_agent_is_taken_out_of_the_environment() -> None:
    """No other run of the process may join the sweep."""
    said = {
        "WANDB_SWEEP_ID": "s",
        "WANDB_RUN_ID": "r",
        "WANDB_SWEEP_PARAM_PATH": "p",
        "WANDB_RUN_GROUP": "g",
    }
    environ = {**said, "WANDB_PROJECT": "mine"}

    assert take_agent_run(environ) == AgentRun("r", "s", "g", None)
    assert environ == {"WANDB_PROJECT": "mine"}
    local = {"WANDB_RUN_ID": "r", "STEELYARD_SWEEP_ROWS": "rows"}
    assert take_agent_run(local) == AgentRun("r", None, None, Path("rows"))
    assert local == {}
    of_a_user = {"WANDB_RUN_ID": "r", "WANDB_RUN_GROUP": "g"}
    assert take_agent_run(of_a_user) is None
    assert len(of_a_user) == 2


def test_a_loop_of_optunas_own_commands_drives_trials(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As sweeps/single.py has it: slots are taken in order, and what trials cost is kept."""
    path = write_study(tmp_path, head=TWO, arms=ARM)
    url, name = f"sqlite:///{out}/studies.db", "small.uniform"
    on_study = ("--storage", url, "--study-name", name)
    assert main(["study", "create", str(path), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["study", "space", str(path), "uniform"]) == 0
    space = capsys.readouterr().out.strip()

    def turn(number: int) -> int:
        ask = run(*OPTUNA, "ask", *on_study, "--search-space", space, "-f", "json", cwd=tmp_path)
        asked = json.loads(ask.stdout)
        assert asked["number"] == number
        params = json.dumps(asked["params"])
        return trial(path, out, "--number", str(number), "--params", params)

    losses: list[float] = []
    for number in range(2):
        assert turn(number) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
        values = ("--trial-number", number, "--values", losses[-1])
        assert run(*OPTUNA, "tell", *on_study, *values, cwd=tmp_path).returncode == 0
    assert turn(2) == 2
    refused = capsys.readouterr().err
    assert "--number: trial 2 of small.uniform has no slot: 2 trials are all" in refused
    assert trial(path, out, "--number", "0", *SETTINGS) == 2
    assert "--number: trial 0 of small.uniform is complete; ask" in capsys.readouterr().err
    assert main(["study", "best", str(path), "--out", str(out)]) == 0
    best = losses.index(min(losses))
    assert f"uniform: trial {best}, tuning loss {min(losses):.4f}" in capsys.readouterr().out


def test_what_other_settings_have_found_is_not_stored_with_a_trial(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, head=TWO.replace("small", "other"), arms=ARM)
    url, name = f"sqlite:///{out}/studies.db", "other.uniform"
    assert main(["study", "create", str(path), "--out", str(out)]) == 0
    assert main(["study", "space", str(path), "uniform"]) == 0
    space = capsys.readouterr().out.splitlines()[-1]
    asking = (*OPTUNA, "ask", "--storage", url, "--study-name", name)
    run(*asking, "--search-space", space, cwd=tmp_path)
    run(*asking, cwd=tmp_path)  # names no space, and so has no settings

    for number, said in enumerate(["weights.a is 0.", "weights.a is none of trial 1's"]):
        assert trial(path, out, "--number", str(number), *SETTINGS) == 2
        shown = capsys.readouterr()
        assert f"steelyard: --number: settings.{said}" in shown.err
        assert shown.out == ""


def test_a_plan_that_cannot_go_on_is_one_line_and_exit_code_1(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise ValueError("no law fits")

    monkeypatch.setattr("sweeps.trial.Bench.carry_out", raises)

    assert trial(write_study(tmp_path, arms=ARM), out, *SETTINGS) == 1
    assert "steelyard: the trial failed: ValueError: no law fits\n" in capsys.readouterr().err


def test_the_space_of_a_mixture_has_an_option_for_each_domain(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, arms=ARM)

    assert [f"--{name}=0.5" for name in study.parameters("uniform")] == SETTINGS
