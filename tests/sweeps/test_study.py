"""Optuna's side of a study: slots, what may change, and what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)
from optuna.trial import TrialState

from harness.cli import find_method
from harness.errors import SpecError
from sweeps.search import distribution, importances, sampler, search_space_json, suggest
from sweeps.space import Choice, FloatRange, IntRange
from sweeps.study import create, load, num_open, num_waiting, retry_failed, rows
from sweeps.studyfile import load_study

from .tiny_study import SPEC, STUDY, tiny_study, write_study

ONE_ARM = '[arms.influence]\nspace = "influence.toml"\n'


def storage() -> optuna.storages.InMemoryStorage:
    return optuna.storages.InMemoryStorage()


def forget_weights(held: optuna.storages.InMemoryStorage) -> None:
    """Make an arm's study one of before the objective's weights were stored."""
    found = optuna.load_study(study_name="small.influence", storage=held)
    asked = found.user_attrs["asked"]
    found.set_user_attr("asked", {key: asked[key] for key in asked if key != "weights"})


def test_parameters_become_optunas_distributions() -> None:
    assert distribution(IntRange(low=2, high=9, log=True)) == IntDistribution(2, 9, log=True)
    assert distribution(IntRange(low=2, high=8, step=3)) == IntDistribution(2, 8, step=3)
    assert distribution(FloatRange(low=0.5, high=2.0)) == FloatDistribution(0.5, 2.0)
    assert distribution(Choice(values=("a", "b"))) == CategoricalDistribution(("a", "b"))


def test_every_arm_has_as_many_slots_as_another_and_the_first_is_the_specs_own(
    tmp_path: Path,
) -> None:
    study, held = tiny_study(tmp_path), storage()

    create(study, held)

    for arm in ("influence", "uniform"):
        found = load(study, arm, held)
        assert num_waiting(found) == 3
        assert [row.slot for row in rows(found)] == [0, 1, 2]
        assert num_open(found) == 3
    first = load(study, "influence", held).ask()
    assert suggest(first, study.parameters("influence")) == study.defaults("influence")


def test_making_a_study_twice_changes_nothing_and_more_trials_are_added(tmp_path: Path) -> None:
    held = storage()
    create(tiny_study(tmp_path / "a"), held)
    create(tiny_study(tmp_path / "a"), held)
    assert len(rows(load(tiny_study(tmp_path / "a"), "influence", held))) == 3

    more = tiny_study(tmp_path / "b", head=STUDY.replace("trials = 3", "trials = 5"))
    create(more, held)

    assert [row.slot for row in rows(load(more, "influence", held))] == [0, 1, 2, 3, 4]


CHANGED = {
    "seeds": STUDY.replace("101", "102"),
    "objective": STUDY + 'objective = "mean"\n',
    "sampler": STUDY + 'sampler = "random"\n',
    "trials": STUDY.replace("trials = 3", "trials = 2"),
}


@pytest.mark.parametrize("key", CHANGED)
def test_another_study_under_an_old_name_is_refused(key: str, tmp_path: Path) -> None:
    held = storage()
    create(tiny_study(tmp_path / "a"), held)

    with pytest.raises(SpecError, match=key):
        create(tiny_study(tmp_path / "b", head=CHANGED[key]), held)


def test_another_space_under_an_old_name_is_refused(tmp_path: Path) -> None:
    from .tiny_study import SPACES

    held = storage()
    create(tiny_study(tmp_path / "a"), held)
    wider = SPACES["influence"].replace("high = 8", "high = 9")

    with pytest.raises(SpecError, match="differs in space"):
        create(tiny_study(tmp_path / "b", influence=wider), held)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("steps = 12", "steps = 24", "spec.budget"),
        ("rows = 8, tokens", "rows = 16, tokens", "spec.batch"),
        ("probe_rows = 4", "probe_rows = 5", "spec.arm"),
        ('target = "c"', 'target = "b"', "spec.target"),
    ],
)
def test_another_spec_under_an_old_name_is_refused(
    old: str, new: str, key: str, tmp_path: Path
) -> None:
    """Trials of two experiments in one study would be compared with each other."""
    held = storage()
    create(tiny_study(tmp_path), held)
    path = tmp_path / "tiny.toml"
    path.write_text(path.read_text().replace(old, new))

    changed = load_study(tmp_path / "study.toml", find_method)

    with pytest.raises(SpecError, match=f"differs in {key}"):
        create(changed, held)
    with pytest.raises(SpecError, match=f"differs in {key}"):  # nor is it shown, or promoted from
        load(changed, "influence", held)


def test_a_mean_over_domains_that_are_not_trained_on_is_another_objective(tmp_path: Path) -> None:
    """As studies had it before their weights were stored."""
    held, mean = storage(), STUDY + 'objective = "mean"\n'
    create(tiny_study(tmp_path, head=mean), held)
    forget_weights(held)
    load(tiny_study(tmp_path, head=mean), "influence", held)  # trains on all: the same mean

    spec = SPEC.replace('target = "c"', 'target = "b"').replace("b = { ", "b = { train = false, ")
    path, other = write_study(tmp_path, head=mean, arms=ONE_ARM), storage()
    path.with_name("tiny.toml").write_text(spec)
    study = load_study(path, find_method)
    create(study, other)
    load(study, "influence", other)
    forget_weights(other)
    with pytest.raises(SpecError, match="differs in objective; choose another name"):
        load(study, "influence", other)


def test_other_text_under_an_old_name_is_refused_and_other_seeds_of_the_spec_are_not(
    tmp_path: Path,
) -> None:
    held = storage()
    create(tiny_study(tmp_path), held, {"corpus_id": "one"})
    path = tmp_path / "tiny.toml"
    path.write_text(path.read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2, 3]"))
    changed = load_study(tmp_path / "study.toml", find_method)

    create(changed, held, {"corpus_id": "one"})
    with pytest.raises(SpecError, match=r"differs in spec\.corpus_id"):
        create(changed, held, {"corpus_id": "other"})


def test_a_study_that_was_never_made_says_how(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no study 'small\.influence'; make it by"):
        load(tiny_study(tmp_path), "influence", storage())


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_trial_draws_by_its_number_whichever_worker_takes_it(kind: str, tmp_path: Path) -> None:
    """Workers that start together on two machines do not draw the same settings."""
    study = tiny_study(tmp_path, head=STUDY + f'sampler = "{kind}"\n')
    drawn = []
    for _ in range(2):
        held = storage()
        create(study, held)
        draws = {}
        for _ in range(3):
            found = load(study, "uniform", held)  # another worker, each time
            trial = found.ask()
            found.sampler = sampler(study, "uniform", trial.number)
            draws[trial.number] = tuple(suggest(trial, study.parameters("uniform")).values())
            found.tell(trial, 1.0)
        drawn.append(draws)

    assert drawn[0] == drawn[1]
    assert len(set(drawn[0].values())) == 3


def test_failed_slots_are_queued_again_with_their_settings_and_once(tmp_path: Path) -> None:
    study, held = tiny_study(tmp_path), storage()
    create(study, held)
    found = load(study, "uniform", held)
    trial = found.ask()
    settings = suggest(trial, study.parameters("uniform"))
    trial.set_user_attr("reason", "it fell")
    found.tell(trial, state=TrialState.FAIL)

    assert retry_failed(found) == 1
    assert retry_failed(found) == 0  # it waits already

    again = found.trials[-1]
    assert again.params == settings
    assert again.user_attrs == {"slot": 0}  # and nothing of what the attempt had found


def test_the_search_space_is_what_optuna_ask_takes(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)

    found = json.loads(search_space_json(study, "influence"))

    assert {name: json_to_distribution(json.dumps(d)) for name, d in found.items()} == {
        "settings.every": IntDistribution(2, 8),
        "settings.temperature": FloatDistribution(0.1, 10.0, log=True),
        "settings.estimator.difference": CategoricalDistribution(("one_sided", "central")),
    }


def test_importances_find_the_parameter_that_matters(tmp_path: Path) -> None:
    """A planted objective of the temperature alone."""
    study, held = tiny_study(tmp_path, head=STUDY.replace("trials = 3", "trials = 40")), storage()
    create(study, held)
    found = load(study, "influence", held)
    assert importances(found) == {}
    for _ in range(40):
        trial = found.ask()
        settings = suggest(trial, study.parameters("influence"))
        found.tell(trial, float(settings["settings.temperature"]))

    shares = importances(found)

    assert set(shares) == {"fanova", "ped_anova"}
    assert shares["fanova"]["settings.temperature"] > 0.8  # of forests, which are no formula
    assert max(shares["ped_anova"], key=lambda n: shares["ped_anova"][n]) == "settings.temperature"


def test_two_objectives_make_a_study_of_two(tmp_path: Path) -> None:
    study, held = tiny_study(tmp_path, head=STUDY + "overhead = true\n"), storage()

    create(study, held)

    found = load(study, "influence", held)
    assert len(found.directions) == 2
    assert found.metric_names == ["tuning loss (target)", "overhead seconds"]


def test_a_trial_that_was_asked_for_and_never_told_can_be_queued_again(tmp_path: Path) -> None:
    study, held = tiny_study(tmp_path), storage()
    create(study, held)
    found = load(study, "uniform", held)
    found.ask()  # by a loop that has ended since
    ours = found.ask()
    ours.set_user_attr("worker", "here:1")

    assert retry_failed(found) == 1

    states = [trial.state for trial in found.trials]
    assert states[:2] == [TrialState.FAIL, TrialState.RUNNING]
    assert found.trials[-1].user_attrs == {"slot": 0}


def test_hyperband_has_more_than_one_rung(tmp_path: Path) -> None:
    study, held = tiny_study(tmp_path, head=STUDY + 'pruner = "hyperband"\n'), storage()
    create(study, held)

    pruner = load(study, "uniform", held).pruner

    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    assert (pruner._min_resource, pruner._max_resource) == (1, 3)  # evaluations of twelve steps
