"""The tuned static mixture: what it tries, what it reads, and that it finds a planted optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.static import Static
from baselines.static_tuned import StaticTuned
from tests.doubles import PlanRunner, PlanSpec

BEST = np.array([0.55, 0.35, 0.10])


def bowl(weights: Tensor) -> dict[str, float]:
    """Return a loss on a that is least at BEST."""
    return {"a": 2 + float(((weights.numpy() - BEST) ** 2).sum()), "b": 9.0, "c": 9.0}


def test_it_finds_a_planted_optimum_on_the_tuning_set_alone() -> None:
    """24 trials measured there, none on the probe set; the best of them is the main run."""
    run = PlanRunner(losses=bowl)

    StaticTuned().plan(PlanSpec(), run)

    trials = run.asked[:-1]
    assert len(trials) == 24
    assert all(spec.measure_tuning and not spec.measure_probes for spec in trials)
    assert run.main.mixer in [spec.mixer for spec in trials]
    assert bowl(run(run.main).weights[0])["a"] < bowl(torch.tensor([0.5, 0.25, 0.25]))["a"]


def test_the_obvious_mixtures_are_tried_first() -> None:
    """So that tuning never loses to a guess by bad luck."""
    run = PlanRunner(losses=bowl)
    StaticTuned(trials=5).plan(PlanSpec(), run)
    target = Static(weights="target"), Static(weights="target", share=0.5)

    tried = [spec.mixer for spec in run.asked[:-1]]
    assert tried[:2] == [Static(), Static(weights="natural")]
    assert set(map(repr, target)) <= set(map(repr, tried))
    assert len(tried) == 5


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 24])
def test_the_number_of_trials_is_kept(trials: int) -> None:
    """Whatever it is: a comparison is fair when it is everyone's."""
    run = PlanRunner(losses=bowl)
    StaticTuned(trials=trials).plan(PlanSpec(), run)

    assert len(run.asked) == trials + 1


def test_later_trials_are_drawn_around_the_best_so_far() -> None:
    """The mean distance to the best mixture falls by half."""
    run = PlanRunner(losses=bowl)
    StaticTuned(trials=44).plan(PlanSpec(), run)
    drawn = [spec.mixer.weights for spec in run.asked[4:-1] if isinstance(spec.mixer.weights, dict)]
    gaps = [np.abs(np.array(list(weights.values())) - BEST).max() for weights in drawn]

    assert np.mean(gaps[-15:]) < 0.5 * np.mean(gaps[:15])
