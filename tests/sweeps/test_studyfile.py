"""A study's file: what is refused before any compute, and what a trial is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import find_method
from harness.errors import SpecError
from sweeps.studyfile import load_study

from .tiny_study import ARMS, SPACES, STUDY, tiny_study, write_study


def test_a_trial_evaluates_on_the_tuning_set_alone_at_the_seeds_of_the_study(
    tmp_path: Path,
) -> None:
    study = tiny_study(tmp_path)

    trial = study.at("influence", {"settings.every": 3})

    assert trial.evaluation.splits == ("tuning",)
    assert trial.seeds == (100, 101)
    assert trial.arms["influence"].settings.every == 3
    assert trial.arms["influence"].settings.rows == 2  # as the spec says
    assert study.ablation.arms["influence"].settings.every == 4
    assert study.ablation.evaluation.splits == ("heldout",)


def test_the_specs_own_settings_are_known_where_they_lie_in_the_space(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)

    assert study.defaults("influence") == {
        "settings.every": 4,
        "settings.temperature": 1.0,
        "settings.estimator.difference": "one_sided",
    }
    assert study.defaults("uniform") == {}  # "uniform" is a rule, and no weight of a domain


def test_an_arm_has_no_number_of_trials_of_its_own(tmp_path: Path) -> None:
    """There is one `trials`, at the top: nobody gets more tries than another."""
    arms = ARMS.replace('space = "influence.toml"', 'space = "influence.toml"\ntrials = 9')

    with pytest.raises(SpecError, match=r"arms\.influence\.trials: unknown key"):
        tiny_study(tmp_path, arms=arms)


REFUSED = {
    "a seed of the spec": (STUDY.replace("100", "1"), "seeds: 1 is a seed of tiny.toml"),
    "a seed twice": (STUDY.replace("100, 101", "100, 100"), "names a seed twice"),
    "no seed": (STUDY.replace("100, 101", ""), "seeds"),
    "no trial": (STUDY.replace("trials = 3", "trials = 0"), "trials: input should be greater"),
    "no spec": (STUDY.replace("tiny.toml", "gone.toml"), "gone.toml: no such file"),
    "an unknown key": (STUDY + "trails = 4\n", "trails: unknown key"),
    "two objectives and a pruner": (
        STUDY + 'overhead = true\npruner = "median"\n',
        "Optuna cannot prune with two objectives",
    ),
    "seeds too few for Wilcoxon": (
        STUDY + 'pruner = "wilcoxon"\n',
        "2 seeds give no Wilcoxon p below 0.25, and threshold is 0.1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line(case: str, tmp_path: Path) -> None:
    head, said = REFUSED[case]

    with pytest.raises(SpecError) as refused:
        tiny_study(tmp_path, head=head)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


ARM = '\n[arms.{}]\nspace = "{}.toml"\n'
REFUSED_ARMS = {
    "no arm of the spec": (ARM.format("doremi", "influence"), "arms.doremi: is no arm"),
    "a space of another method": (
        ARM.format("uniform", "influence"),
        "arms.uniform.space: is for 'influence', and the arm is 'static'",
    ),
}


@pytest.mark.parametrize("case", REFUSED_ARMS)
def test_an_arm_that_does_not_fit_is_one_line(case: str, tmp_path: Path) -> None:
    arms, said = REFUSED_ARMS[case]

    with pytest.raises(SpecError, match=said):
        tiny_study(tmp_path, arms=arms)


def test_a_space_whose_ends_the_method_refuses_is_refused_before_any_trial(tmp_path: Path) -> None:
    wide = SPACES["influence"].replace("high = 8", "high = 12")  # of a run of 12 steps

    with pytest.raises(SpecError) as refused:
        tiny_study(tmp_path, influence=wide)

    line = str(refused.value)
    assert "arms.influence.space: settings.every = 12 is refused" in line
    assert "no refresh comes in 12 steps" in line


def test_a_setting_inside_of_a_name_asks_for_a_table(tmp_path: Path) -> None:
    """`estimator = "group"` has no keys inside that could be set."""
    write_study(tmp_path)
    text = (tmp_path / "tiny.toml").read_text()
    (tmp_path / "tiny.toml").write_text(text.replace("{ check_rows = 2 }", '"directional"'))

    with pytest.raises(SpecError, match=r"settings\.estimator: is 'directional'.*write it as a"):
        load_study(tmp_path / "study.toml", find_method)


def test_a_spec_that_is_edited_later_is_not_what_is_tuned(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    text = (tmp_path / "tiny.toml").read_text()
    (tmp_path / "tiny.toml").write_text(text.replace("steps = 12", "steps = 24"))

    assert study.at("influence", {}).num_steps == study.ablation.num_steps == 12
