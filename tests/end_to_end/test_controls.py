"""Controls on the command line: they name another arm, run after it, and are not billed for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import Out, steelyard, write_spec

ARMS = {
    "uniform": 'method = "static"',
    "replayed": 'method = "replay"\nsettings = { of = "odm" }',
    "shuffled": 'method = "shuffled_schedule"\nsettings = { of = "odm" }',
    "of_doremi": 'method = "replay"\nsettings = { of = "doremi" }',
    "half": 'method = "half_on_target"',
    "odm": 'method = "odm"\nsettings = { warmup = 0.0 }',
    "doremi": 'method = "doremi"\nsettings = { proxy_steps = 4 }',
}


@dataclass(frozen=True)
class Controlled:
    """A run of the arms above."""

    spec: Path
    out: Out


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Controlled:
    """Run them once: the controls come first in the spec and still run last."""
    folder = tmp_path_factory.mktemp("controlled")
    spec = write_spec(folder / "controls.toml", ARMS, seeds=(0,))
    result = steelyard("run", spec.name, "--out", "out", cwd=folder)
    assert result.returncode == 0, result.stderr
    return Controlled(spec, Out(folder / "out"))


def test_a_control_shows_another_arms_runs_and_pays_for_none(controlled: Controlled) -> None:
    """The arm's own cell is what it looked at; reference and proxy of a replayed plan too."""
    out = controlled.out
    cells = {label: out.cell("controls", label, 0) for label in ARMS}
    doremi = [cells["doremi"]["run_id"], *(a["run_id"] for a in cells["doremi"]["auxiliary"])]

    assert cells["replayed"]["shown"] == [cells["odm"]["run_id"]]
    assert cells["shuffled"]["shown"] == [cells["odm"]["run_id"]]
    # DoReMi's main run is static: its replay is the same run where the mean rounds to its weights
    seen = {*cells["of_doremi"]["shown"], cells["of_doremi"]["run_id"]}
    assert seen - set(doremi) <= {cells["of_doremi"]["run_id"]}
    assert set(doremi) <= seen
    for label in ("replayed", "shuffled", "of_doremi"):
        assert cells[label]["auxiliary"] == []
        assert 0 < cells[label]["plan_seconds"] < 1
        assert out.header(cells[label]["run_id"])["costs"]["mixer"]["flops"] == 0


def test_a_replay_samples_with_the_mean_of_the_arm(controlled: Controlled) -> None:
    """Read from the records of both."""
    out = controlled.out
    weights = {
        label: [r["weights"] for r in out.records(out.cell("controls", label, 0)["run_id"], "step")]
        for label in ("odm", "replayed", "shuffled")
    }
    mean = [sum(column) / len(column) for column in zip(*weights["odm"], strict=True)]

    assert all(row == pytest.approx(mean) for row in weights["replayed"])
    assert weights["shuffled"] != weights["odm"]
    # scaled to sum 1 once more, which on some processors moves the last digit
    for row, other in zip(sorted(weights["shuffled"]), sorted(weights["odm"]), strict=True):
        assert row == pytest.approx(other, rel=1e-14)


def test_controls_are_descriptive_by_themselves(controlled: Controlled) -> None:
    """Without `control = true` in the spec, and outside of what is tested."""
    arms = controlled.out.ablation("controls")["arms"]

    assert {label for label, arm in arms.items() if arm["control"]} == {
        "replayed", "shuffled", "of_doremi", "half",
    }  # fmt: skip
    assert {label for label, arm in arms.items() if arm["fixed"]} == {"uniform", "half"}
    page = (controlled.out.folder / "report/controls/report.html").read_text()
    odm = controlled.out.cell("controls", "odm", 0)["run_id"]
    assert page.count(odm) > 2  # its own, and those of two controls
    report = controlled.out.folder / "report/controls/report.md"
    assert "that replayed, shuffled and of\\_doremi look at" in report.read_text()


def test_the_plan_of_a_finished_control_needs_nothing(controlled: Controlled) -> None:
    """And an unfinished one says what it waits for."""
    folder = controlled.spec.parent
    done = steelyard("plan", controlled.spec.name, "--out", "out", cwd=folder)
    fresh = steelyard("plan", controlled.spec.name, "--out", "elsewhere", cwd=folder)

    assert done.returncode == fresh.returncode == 0
    assert "later" in fresh.stdout
    assert "later" not in done.stdout


def test_again_is_a_no_op(controlled: Controlled) -> None:
    """Finished controls are found like any run."""
    before = controlled.out.run_ids()
    result = steelyard("run", controlled.spec.name, "--out", "out", cwd=controlled.spec.parent)

    assert result.returncode == 0
    assert controlled.out.run_ids() == before


REPLAY = 'method = "replay"\nsettings = { of = "odm" }'


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (
            'method = "replay"\nsettings = { of = "nobody" }',
            "arms.replayed.settings.of: 'nobody' is no other arm; choose another arm: uniform, odm",
        ),
        (
            'method = "replay"\nsettings = { of = "replayed" }',
            "arms.replayed.settings.of: 'replayed' is no other arm",
        ),
        (
            'method = "replay"\nsettings = { of = 3 }',
            "arms.replayed.settings.of: input should be a valid string, got 3",
        ),
        ('method = "replay"', "arms.replayed.settings.of: is missing; add it"),
        (
            f"{REPLAY}\ndata_seed = 7",
            "arms.replayed.data_seed: 7, of runs that differ; set it as in arms.odm",
        ),
        (
            f"{REPLAY}\ncontrol = false",
            "arms.replayed.control: must be true, since what it looks at is billed to another arm",
        ),
        (
            'method = "misbehaving:LooksAtNoArm"',
            "arms.replayed: looks at runs of Static, which is no arm of this spec",
        ),
        (
            'method = "misbehaving:BindsBadly"',
            "arms.replayed.settings: 'nobody' is no other arm",
        ),
    ],
)
def test_a_control_that_cannot_be_is_one_line(arm: str, said: str, tmp_path: Path) -> None:
    """Exit code 2, before anything is built."""
    arms = {"uniform": 'method = "static"', "replayed": arm, "odm": ARMS["odm"]}
    spec = write_spec(tmp_path / "bad.toml", arms)

    result = steelyard("run", spec.name, cwd=tmp_path)

    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("ado", "start: first fit at 1000 of 12 steps; lower it"),
        ("shearing", "every: no update comes in 12 steps, at 50; lower it"),
        ("aioli", "lp_steps: LearnParams takes 72 of 12 steps; lower it"),
    ],
)
def test_a_run_too_short_to_act_in_is_one_line(arm: str, said: str, tmp_path: Path) -> None:
    """Their defaults are for thousands of steps, and these runs have twelve."""
    arms = {"uniform": 'method = "static"', "short": f'method = "{arm}"'}
    spec = write_spec(tmp_path / "short.toml", arms, seeds=(0,))

    result = steelyard("run", spec.name, cwd=tmp_path)

    assert result.returncode == 2
    assert f"arms.short.settings.{said}" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_failed_arm_is_the_reason_of_its_control(tmp_path: Path) -> None:
    """Which says so, and loses nobody else."""
    arms = {
        "uniform": 'method = "static"',
        "raises": 'method = "misbehaving:Raises"\nsettings = { step = 3 }',
        "replayed": 'method = "replay"\nsettings = { of = "raises" }',
    }
    spec = write_spec(tmp_path / "failing.toml", arms, seeds=(0,))

    result = steelyard("run", spec.name, "--out", "out", cwd=tmp_path)

    cells = {label: Out(tmp_path / "out").cell("failing", label, 0) for label in arms}
    assert result.returncode == 1
    assert cells["uniform"]["status"] == "finished"
    assert cells["raises"]["status"] == "failed"
    assert cells["replayed"]["reason"].startswith("the arm that it looks at failed")
    assert cells["raises"]["reason"] in cells["replayed"]["reason"]


def test_the_list_of_methods_is_the_registry(tmp_path: Path) -> None:
    """Names, papers, needs and costs, without importing torch."""
    from baselines import METHODS

    listed = steelyard("methods", cwd=tmp_path)
    one = steelyard("methods", "aioli", cwd=tmp_path)
    wrong = steelyard("methods", "aioly", cwd=tmp_path)

    assert listed.returncode == one.returncode == 0
    for name in METHODS:
        assert name in listed.stdout
    for word in ("2305.10429", "needs", "costs", "controls"):
        assert word in listed.stdout
    for word in ("arXiv:2411.05735", "Deviations:", "lp_rounds", "Orders of the domains"):
        assert word in one.stdout
    assert wrong.returncode == 2
    assert "unknown method 'aioly'" in wrong.stderr


@pytest.mark.slow
def test_one_spec_runs_every_method(tmp_path: Path) -> None:
    """sweeps/methods.toml on the embedded text, shorter still: every arm finishes."""
    from baselines import METHODS

    from .conftest import ROOT

    shorter = ["--budget.steps=12", "--seeds", "0", "--arms.regmix.settings.proxy-steps=2"]
    shorter += ["--arms.regmix.settings.mixtures=4", "--arms.mixing-laws.settings.mixtures=4"]
    shorter += ["--arms.mixing-laws.settings.proxy-steps=2", "--arms.ado.settings.start=6"]
    shorter += ["--arms.ado.settings.every=6"]
    shorter += ["--arms.aioli.settings.lp-steps=1", "--arms.influence.settings.every=4"]
    shorter += ["--arms.shearing.settings.every=4", "--arms.influence-permuted.settings.every=4"]
    shorter += ["--arms.static-tuned.settings.proxy-steps=2", "--arms.ado.settings.ignore=0"]
    result = steelyard("run", str(ROOT / "sweeps/methods.toml"), *shorter, cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    arms = json.loads((tmp_path / "runs/ablations/methods.json").read_text())["arms"]
    assert {arm["method"] for arm in arms.values()} == set(METHODS)
    assert {arm["runs"][0]["status"] for arm in arms.values()} == {"finished"}
