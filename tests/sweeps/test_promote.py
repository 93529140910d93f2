"""Promotion: a spec that says where its settings come from, and refuses the seeds they saw."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.arguments import parse
from harness.cli import find_method
from harness.errors import SpecError
from harness.specfile import load_ablation
from harness.study_forms import StudyPromote
from sweeps.promote import promote
from sweeps.study import Row
from sweeps.studyfile import Study, load_study

from .tiny_study import STUDY
from .tiny_study import tiny_study as tiny

HEAD = STUDY.replace("trials = 3", "trials = 1")  # as many as every arm has here at least


def tiny_study(folder: Path, **written: Any) -> Study:
    """Return the tiny study, of one trial unless it is said otherwise."""
    return tiny(folder, **{"head": HEAD, **written})


FACTS = {"seeds": [100, 101], "run_ids": ["aa", "bb"], "train_seconds": 1.0, "overhead_seconds": 0}
FACTS |= {"runs": {"aa": (1, 1.0), "bb": (1, 1.0)}}
FOUND = {
    "influence": [
        Row(0, 0, "complete", (2.0,), {"settings.every": 4}, FACTS, {}),
        Row(7, 1, "complete", (1.5,), {"settings.every": 3, "settings.temperature": 0.25,
            "settings.estimator.difference": "central"}, FACTS, {}),
    ],
    "uniform": [
        Row(1, 0, "complete", (1.25,), {"settings.weights.a": 0.5, "settings.weights.b": 0.1,
            "settings.weights.c": 0.4}, FACTS, {}),
    ],
}  # fmt: skip


def command(to: Path, **changes: Any) -> SimpleNamespace:
    asked = {"to": to, "force": False, "trial": (), "out": Path("runs/x"), **changes}
    return SimpleNamespace(**asked)


def test_the_spec_stays_as_it_was_written_and_gains_the_best_settings(tmp_path: Path) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"

    told = promote(study, FOUND, command(to), "sqlite:///runs/x/studies.db")

    text = to.read_text()
    assert "# a comment that has to stay" in text
    raw = tomllib.loads(text)
    before = tomllib.loads((tmp_path / "tiny.toml").read_text())
    assert raw["name"] == "tiny-tuned"
    assert {k: v for k, v in raw.items() if k not in ("name", "arms")} == {
        k: v for k, v in before.items() if k not in ("name", "arms")
    }
    assert {k: raw["arms"][k] for k in before["arms"]} == before["arms"]
    assert raw["arms"]["influence_tuned"]["settings"] == {
        "every": 3,
        "rows": 2,
        "probe_rows": 4,
        "estimator": {"check_rows": 2, "difference": "central"},
        "temperature": 0.25,
    }
    assert raw["arms"]["static_tuned"]["settings"] == {"weights": {"a": 0.5, "b": 0.1, "c": 0.4}}
    assert raw["arms"]["static_tuned"]["control"] is True
    assert any("compare: steelyard run" in line for line in told)


def test_provenance_names_study_trial_seeds_and_runs(tmp_path: Path) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"
    promote(study, FOUND, command(to), "sqlite:///runs/x/studies.db")

    found = load_ablation(to, (), find_method).arms["influence_tuned"].provenance

    assert found is not None
    assert (found.study, found.arm, found.trial, found.trials) == ("small", "influence", 7, 2)
    assert found.seeds == (100, 101)
    assert found.run_ids == ("aa", "bb")
    assert found.tuning_loss == 1.5
    assert found.storage == "sqlite:///runs/x/studies.db"


def test_a_seed_that_a_trial_has_used_is_refused_in_the_comparison(tmp_path: Path) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"
    promote(study, FOUND, command(to), "sqlite:///s.db")
    to.write_text(to.read_text().replace("seeds = [0, 1]", "seeds = [0, 101]"))

    with pytest.raises(SpecError) as refused:
        load_ablation(to, (), find_method)

    assert "seeds: 101 was used to tune arms.influence_tuned (study small)" in str(refused.value)
    to.write_text(to.read_text().replace("[0, 101]", "[0, 1]"))
    with pytest.raises(SpecError, match="100 was used to tune"):
        load_ablation(to, ("--seeds", "100", "0"), find_method)


def test_another_trial_than_the_best_may_be_asked_for(tmp_path: Path) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"

    promote(study, FOUND, command(to, trial=("influence=0",)), "sqlite:///s.db")

    assert tomllib.loads(to.read_text())["arms"]["influence_tuned"]["settings"]["every"] == 4


def test_the_command_takes_a_trial_for_each_arm() -> None:
    read = parse(StudyPromote, ["s.toml", "--trial", "a=1", "--trial", "b=2"])

    assert read.trial == ("a=1", "b=2")


REFUSED = {
    "no such trial": ({"trial": ("influence=9",)}, "influence has no trial 9 that is complete"),
    "no such arm": ({"trial": ("doremi=1",)}, "must be ARM=NUMBER"),
    "no number": ({"trial": ("influence",)}, "must be ARM=NUMBER"),
    "twice": ({"trial": ("influence=0", "influence=7")}, "influence is given twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_trial_that_is_not_there_is_refused(case: str, tmp_path: Path) -> None:
    changes, said = REFUSED[case]

    with pytest.raises(SpecError, match=said):
        promote(tiny_study(tmp_path), FOUND, command(tmp_path / "t.toml", **changes), "")


def test_a_trial_of_fewer_seeds_cannot_be_asked_for_either(tmp_path: Path) -> None:
    stopped = Row(3, 2, "complete", (1.0,), {"settings.every": 2}, {**FACTS, "seeds": [100]}, {})
    found = {**FOUND, "influence": [*FOUND["influence"], stopped]}

    with pytest.raises(SpecError, match="has no trial 3 that is complete at every seed"):
        promote(
            tiny_study(tmp_path), found, command(tmp_path / "t.toml", trial=("influence=3",)), ""
        )


def test_arms_that_have_had_fewer_trials_than_others_are_not_promoted(tmp_path: Path) -> None:
    """Equal search is what makes the tuned arms comparable; the file says what was really done."""
    study, to = tiny_study(tmp_path, head=STUDY), tmp_path / "t.toml"

    with pytest.raises(SpecError, match=r"some are still to be done \(influence 2, uniform 1\)"):
        promote(study, FOUND, command(to), "")

    assert not to.exists()
    promote(study, FOUND, command(to, force=True), "sqlite:///s.db")
    arms = load_ablation(to, (), find_method).arms
    assert arms["influence_tuned"].provenance.trials == 2  # type: ignore[union-attr]
    assert arms["static_tuned"].provenance.trials == 1  # type: ignore[union-attr]


def test_two_objectives_have_no_one_best(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, head=HEAD + "overhead = true\n")

    with pytest.raises(SpecError, match="two objectives have no one best; choose from its front"):
        promote(study, FOUND, command(tmp_path / "t.toml", force=True), "")

    chosen = ("influence=0", "uniform=1")
    promote(study, FOUND, command(tmp_path / "t.toml", trial=chosen), "sqlite:///s.db")
    arms = load_ablation(tmp_path / "t.toml", (), find_method).arms
    assert arms["influence_tuned"].provenance.trial == 0  # type: ignore[union-attr]
    assert arms["static_tuned"].provenance.trial == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("arms", ['arms = { uniform = { method = "static" } }'])
def test_arms_in_one_line_are_refused_and_a_folder_that_is_not_there_too(
    arms: str, tmp_path: Path
) -> None:
    study = tiny_study(tmp_path, arms='[arms.uniform]\nspace = "static.toml"\n')
    found = {"uniform": FOUND["uniform"]}
    with pytest.raises(SpecError, match="cannot be written"):
        promote(study, found, command(tmp_path / "no/t.toml"), "")
    head, _, _ = (tmp_path / "tiny.toml").read_text().partition("[arms.uniform]")
    (tmp_path / "tiny.toml").write_text(arms + "\n" + head)

    inline = load_study(tmp_path / "study.toml", find_method)
    with pytest.raises(SpecError, match="cannot be extended"):
        promote(inline, found, command(tmp_path / "t.toml"), "")


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"
    to.write_text("mine")

    with pytest.raises(SpecError, match="exists; choose another path, or add --force"):
        promote(study, FOUND, command(to), "")

    assert to.read_text() == "mine"
    promote(study, FOUND, command(to, force=True), "sqlite:///s.db")
    assert to.read_text() != "mine"


def test_a_study_without_a_complete_trial_has_nothing_to_promote(tmp_path: Path) -> None:
    cut = {**FOUND, "influence": [Row(0, 0, "pruned", (2.0,), {}, FACTS, {})]}

    with pytest.raises(SpecError, match="no trial has completed at every seed"):
        promote(tiny_study(tmp_path), cut, command(tmp_path / "t.toml"), "")


def test_a_spec_whose_text_cannot_be_extended_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    study, to = tiny_study(tmp_path), tmp_path / "tuned.toml"
    text = (tmp_path / "tiny.toml").read_text()
    (tmp_path / "tiny.toml").write_text(text.replace('name = "tiny"', 'name = """tiny"""'))

    with pytest.raises(SpecError, match="cannot be extended; write the arms by hand"):
        promote(study, FOUND, command(to), "")

    assert not to.exists()
