"""What a report says of a study: read from plain JSON, compared on seeds that it did not use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpecError
from reports import study_page, tuning
from reports.build import build
from reports.load import load
from tests.reports.synthetic import edit, write_out

SPACE = {
    "settings.every": {"type": "int", "low": 10, "high": 100, "log": True, "step": None},
    "settings.temperature": {"type": "float", "low": 0.1, "high": 10.0, "log": True, "step": None},
    "settings.rule": {"type": "choice", "values": ["softmax", "<b>qp</b>"]},
}


def trial(number: int, every: int, loss: float, state: str = "complete") -> dict[str, Any]:
    params = {"settings.every": every, "settings.temperature": 0.5, "settings.rule": "softmax"}
    facts = {"seeds": [100, 101], "run_ids": [f"r{number}a", f"r{number}b"], "tokens": 1000}
    facts |= {"train_seconds": 10.0, "overhead_seconds": 200.0 / every}
    # one run that all trials share, and one of their own
    facts |= {"runs": {"shared": [400, 3600.0], f"r{number}a": [600, 1800.0]}}
    own = {"number": number, "slot": number, "state": state, "values": [loss]}
    return own | {"params": params, "facts": facts, "reported": {"1": loss}}


def write_study(out: Path, name: str = "tuned", **changes: Any) -> None:
    """Write the findings of a study of one arm, in which the interval alone matters."""
    trials = [trial(n, every, 2.0 + every / 100) for n, every in enumerate((100, 50, 20, 11, 30))]
    trials.append(trial(5, 90, 9.0, "pruned"))
    importances = {"settings.every": 0.9, "settings.temperature": 0.08, "settings.rule": 0.02}
    arm = {
        "method": "influence",
        "optuna_study": f"{name}.influence",
        "space": SPACE,
        "defaults": {
            "settings.every": 100,
            "settings.temperature": 1.0,
            "settings.rule": "softmax",
        },
        "importances": {"fanova": importances, "ped_anova": importances},
        "best": 3,
        "own": 0,
        "front": [0, 1, 4, 2, 3],
        "eligible": [0, 1, 2, 3, 4],
        "trials": trials,
    }
    study = {"schema": 1, "name": name, "spec": "demo", "objective": "target", "trials": 6}
    study |= {"metrics": ["tuning loss (target)"], "seeds": [100, 101], "sampler": "tpe"}
    study |= {"pruner": "median", "max_overhead": None, "storage": "sqlite:///s.db"}
    study |= {"command": "steelyard study run s.toml", "updated": "2026-11-26"}
    (out / "studies").mkdir(exist_ok=True)
    content = study | {"arms": {"influence": arm}} | changes
    (out / "studies" / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an ablation whose arm `half` stands for what the study made of `uniform`."""
    out = write_out(tmp_path, num_seeds=8)
    write_study(out)
    path = out / "ablations/demo.json"
    arms = json.loads(path.read_text())["arms"]
    arms["half"]["provenance"] = {"study": "tuned", "arm": "uniform", "trial": 3, "trials": 6}
    edit(path, arms=arms)
    return out


def test_a_promoted_arm_is_compared_with_the_arm_that_was_tuned(out: Path) -> None:
    (found,) = tuning.promoted(load(out))

    assert (found.arm, found.tuned, found.trial) == ("half", "uniform", 3)
    assert found.pair is not None
    assert found.pair.num_pairs == 8
    assert found.pair.mean == pytest.approx(-0.09, abs=0.02)  # as planted


def test_the_settings_stand_beside_the_specs_own_with_their_shares(out: Path) -> None:
    (study,) = tuning.studies(load(out))
    (arm,) = tuning.tuned_arms(study)

    assert arm.counts == "5 complete, 1 pruned"
    assert arm.own_loss == 3.0
    assert arm.best_loss == pytest.approx(2.11)
    assert arm.num_runs == 7  # the shared one counts once
    assert arm.tokens == 400 + 6 * 600
    assert arm.hours == 1 + 6 * 0.5
    first = arm.settings[0]
    assert (first.name, first.own, first.best, first.fanova) == ("every", "100", "11", 0.9)
    assert "fANOVA ranks every first (relative importance 0.90, from 5 complete" in arm.reading
    assert "The best every is near the edge" in arm.reading


@pytest.mark.parametrize(
    ("name", "value", "is_edge"),
    [
        ("settings.every", 10, True),
        ("settings.every", 11, True),  # of a log scale from 10 to 100
        ("settings.every", 15, False),
        ("settings.every", 95, True),
        ("settings.temperature", 1.0, False),
        ("settings.rule", "softmax", False),
    ],
)
def test_an_edge_is_a_twentieth_of_the_range_on_its_scale(
    name: str, value: Any, is_edge: bool
) -> None:
    assert tuning._is_edge({"space": SPACE}, name, value) is is_edge


def test_the_report_has_the_comparison_and_every_drawing_of_the_study(out: Path) -> None:
    paths = build(out)

    html, text = paths.html.read_text(), paths.markdown.read_text()
    assert "How settings were tuned" in html
    assert "How settings were tuned" in text
    drawn = json.loads(paths.figures.read_text())
    kinds = ("history", "importance", "every", "temperature", "rule", "map", "pareto")
    for kind in kinds:
        assert f"study-tuned-influence-{kind}" in drawn
        assert f'data-panel="study-tuned-influence-{kind}"' in html


def test_without_a_trial_of_the_specs_own_settings_none_is_told(out: Path) -> None:
    (study,) = tuning.studies(load(out))
    del study["arms"]["influence"]["defaults"]["settings.rule"]
    study["arms"]["influence"]["own"] = None

    (arm,) = tuning.tuned_arms(study)

    assert math.isnan(arm.own_loss)
    assert arm.settings[2].own == ""


def test_a_trial_that_was_told_by_hand_or_died_between_two_facts_breaks_no_page(out: Path) -> None:
    path = out / "studies/tuned.json"
    study = json.loads(path.read_text())
    trials = study["arms"]["influence"]["trials"]
    trials.append({**trials[0], "number": 6, "facts": {}})
    trials.append({**trials[0], "number": 7, "state": "failed", "facts": {"run_ids": ["x"]}})
    path.write_text(json.dumps(study))

    assert study_page.write(out, "tuned").exists()
    assert build(out).html.exists()


def test_a_report_without_the_studys_file_says_so_and_compares_all_the_same(out: Path) -> None:
    (out / "studies/tuned.json").unlink()

    html = build(out).html.read_text()

    assert "The study's findings are not in this folder" in html.replace("&#39;", "'")
    assert "Tuned settings against" in html


def test_an_ablation_without_promoted_arms_has_no_such_section(eight: Path) -> None:
    assert "How settings were tuned" not in build(eight).html.read_text()


def test_a_study_has_a_page_of_its_own(out: Path) -> None:
    path = study_page.write(out, "tuned")

    page = path.read_text()
    assert path == out / "report/tuned-study/report.html"
    assert "Nothing held out was computed" in page
    assert "steelyard study run s.toml" in page
    assert "optuna trials --storage sqlite:///s.db --study-name tuned.influence" in page
    assert "<b>qp</b>" not in page.partition("<script>")[0]


def test_a_study_that_is_not_there_or_of_another_version_is_one_line(out: Path) -> None:
    with pytest.raises(SpecError, match="no findings of this version"):
        study_page.write(out, "nothing")
    write_study(out, schema=99)
    with pytest.raises(SpecError, match="no findings of this version"):
        study_page.write(out, "tuned")


def test_a_study_in_which_nothing_has_completed_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    write_study(tmp_path)
    path = tmp_path / "studies/tuned.json"
    study = json.loads(path.read_text())
    facts = study["arms"]["influence"]
    facts |= {
        "trials": [],
        "best": None,
        "own": None,
        "importances": {},
        "front": [],
        "eligible": [],
    }
    path.write_text(json.dumps(study))

    (arm,) = tuning.tuned_arms(study)

    assert math.isnan(arm.best_loss)
    assert study_page.write(tmp_path, "tuned").exists()
