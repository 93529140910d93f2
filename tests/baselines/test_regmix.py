"""RegMix against arXiv:2407.01492: the draws' rules, the regressors, and a planted optimum."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from torch import Tensor

from baselines.regmix import RegMix, best_mean, lightgbm, linear
from baselines.static import Static
from baselines.swarms import drawn
from tests.doubles import PlanRunner, PlanSpec

PRIOR = np.array([0.5, 0.3, 0.2])
BEST = np.array([0.15, 0.60, 0.25])


def bowl(weights: Tensor) -> dict[str, float]:
    """Return a loss on a that is least at BEST, and another on b."""
    return {"a": 2 + float(((weights.numpy() - BEST) ** 2).sum()), "b": 9.0, "c": 9.0}


def test_draws_keep_their_rules() -> None:
    """On the simplex, at most `most` times the prior, nothing between 0 and `least`."""
    found = drawn(PRIOR, 4000, 1.6, 1e-2, np.random.default_rng(0))

    assert found.shape == (4000, 3)
    assert np.allclose(found.sum(1), 1)
    assert (found <= 1.6 * PRIOR / (1 - 3e-2)).all()  # before small weights are dropped
    assert ((found == 0) | (found >= 1e-2)).all()
    assert (found == 0).any()


def test_draws_are_dirichlet_around_the_root_of_the_prior() -> None:
    """Without bounds the mean is prior^.5, normalised; strengths of .1 to 5 spread them widely."""
    found = drawn(PRIOR, 20000, np.inf, 0.0, np.random.default_rng(0))

    base = PRIOR**0.5 / (PRIOR**0.5).sum()
    assert found.mean(0).tolist() == pytest.approx(base.tolist(), abs=0.01)
    # a Dirichlet of strength s has variance base (1 - base) / (s + 1)
    strengths = np.logspace(-1, np.log10(5), 15)
    wanted = base * (1 - base) * (1 / (strengths + 1)).mean()
    assert found.var(0).tolist() == pytest.approx(wanted.tolist(), rel=0.05)


def test_the_linear_regressor_finds_a_linear_loss() -> None:
    """Weights sum to 1, so that the intercept is in the coefficients."""
    mixtures = drawn(PRIOR, 8, np.inf, 0.0, np.random.default_rng(1))
    predict = linear(mixtures, 3 + mixtures @ np.array([1.0, -2.0, 0.5]))

    assert predict(np.eye(3)).tolist() == pytest.approx([4.0, 1.0, 3.5])


def test_trees_find_a_planted_optimum() -> None:
    """The mean of the best predictions is near the least loss: 128 proxies of three domains."""
    keyed = np.random.default_rng(2)
    mixtures = drawn(PRIOR, 128, np.inf, 0.0, keyed)
    predict = lightgbm(mixtures, ((mixtures - BEST) ** 2).sum(1))
    many = drawn(PRIOR, 20000, np.inf, 0.0, keyed)

    found = best_mean(many, predict(many), 128, PRIOR).numpy()

    assert np.abs(found - BEST).max() < 0.08


def test_the_plan_is_a_swarm_and_the_best_of_it() -> None:
    """64 proxies, the first at the prior; the main run is nearer to the planted optimum by far."""
    run = PlanRunner(losses=bowl)

    RegMix(simulated=20000, proxy_steps=7).plan(PlanSpec(), run)

    assert len(run.asked) == 65
    assert run.asked[0].mixer == Static(weights="natural")
    assert all(s.measure_probes and s.num_steps == 7 for s in run.asked[:-1])
    main = np.array(list(run.main.mixer.weights.values()))
    assert ((main - BEST) ** 2).sum() < 0.5 * ((PRIOR - BEST) ** 2).sum()


def test_a_linear_regressor_goes_to_the_edge() -> None:
    """Its least loss is at a vertex, which is why the paper prefers trees where loss is a bowl."""
    run = PlanRunner(losses=bowl)

    RegMix(mixtures=16, regressor="linear", simulated=20000).plan(PlanSpec(), run)

    assert run.main.mixer.weights == pytest.approx({"a": 0.0, "b": 1.0, "c": 0.0}, abs=0.01)


def test_the_same_seed_asks_for_the_same_swarm() -> None:
    """And another one for another, without the global generator."""
    asked = []
    for seed in (0, 0, 1):
        run = PlanRunner(losses=bowl)
        RegMix(mixtures=4, simulated=100, top=5).plan(PlanSpec(data_seed=seed), run)
        asked.append([spec.mixer for spec in run.asked])

    assert asked[0] == asked[1]
    assert asked[0][1:] != asked[2][1:]


def test_a_prior_of_zero_is_drawn_around() -> None:
    """A domain without text of its own cannot be bounded by a multiple of it."""
    found = drawn(np.array([0.7, 0.3, 0.0]), 50, 15.0, 0.0, np.random.default_rng(0))

    assert found[:, 2].max() < 1e-6


@pytest.mark.parametrize("size", [4, 19, 20, 39, 40, 44, 64])
def test_trees_tell_mixtures_apart_at_any_size_of_swarm(size: int) -> None:
    """LightGBM's own 20 rows a leaf would split nothing below 40 proxies."""
    keyed = np.random.default_rng(size)
    mixtures = np.stack([PRIOR, *drawn(PRIOR, size - 1, np.inf, 0.0, keyed)])
    losses = 3 + mixtures @ np.array([2.0, -1.0, 0.0])

    predictions = lightgbm(mixtures, losses)(drawn(PRIOR, 500, np.inf, 0.0, keyed))

    assert np.ptp(predictions) > 0.1


def test_a_regression_that_tells_nothing_leaves_the_prior() -> None:
    """Rather than the mean of whatever was drawn first."""
    many = drawn(PRIOR, 50, np.inf, 0.0, np.random.default_rng(0))

    assert best_mean(many, np.full(50, 2.0), 5, PRIOR).tolist() == PRIOR.tolist()


def test_bounds_without_a_mixture_are_refused() -> None:
    """Neither a hang nor a NaN."""
    with pytest.raises(ValueError, match="greater than 1"):
        RegMix(most=0.5)
    with pytest.raises(ValueError, match=r"least: 0\.5 of 3 domains; give less than 1/K"):
        RegMix(least=0.5).check(("a", "b", "c"), {})
    with pytest.raises(ValueError, match="leaves no mixture; raise it"):
        drawn(PRIOR, 4, 0.9, 0.0, np.random.default_rng(0))


def test_trees_that_are_not_installed_are_said_before_the_swarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixty-four proxies later would be late."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"regressor: lightgbm is not installed; install"):
        RegMix().check(("a", "b"), {})
    RegMix(regressor="linear").check(("a", "b"), {})
