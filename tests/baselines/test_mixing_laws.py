"""Mixing laws against arXiv:2403.16952, Eq. 7: planted laws, and the minimum beside brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from torch import Tensor

from baselines.mixing_laws import Law, MixingLaws, fitted, minimum
from baselines.swarms import drawn
from tests.doubles import PlanRunner, PlanSpec

PRIOR = np.array([0.5, 0.3, 0.2])
ONE = Law(1.8, 0.3, np.array([-2.0, 0.4, -0.3]))
OTHER = Law(2.1, 0.1, np.array([0.5, -1.5, -0.2]))
NO_CAP = np.ones(3)


def losses(weights: Tensor) -> dict[str, float]:
    """Return what the planted laws say."""
    p = weights.numpy()
    return {"a": float(ONE(p)), "b": float(OTHER(p)), "c": 3.0}


def grid() -> np.ndarray:
    """Return every mixture of three domains in steps of a hundredth."""
    pairs = itertools.product(range(101), repeat=2)
    return np.array([(i, j, 100 - i - j) for i, j in pairs if i + j <= 100]) / 100


@pytest.mark.parametrize("law", [ONE, OTHER], ids=["one", "other"])
def test_a_planted_law_predicts_mixtures_that_it_was_not_fitted_to(law: Law) -> None:
    """From 20 mixtures without noise, to a thousandth of a nat anywhere on the simplex."""
    keyed = np.random.default_rng(0)
    mixtures = drawn(PRIOR, 20, np.inf, 0.0, keyed)

    found = fitted(mixtures, law(mixtures), 20, keyed)

    assert np.abs(found(grid()) - law(grid())).max() < 2e-3


@pytest.mark.parametrize("kl", [0.0, 0.05, 1.0])
def test_the_minimum_is_that_of_brute_force(kl: float) -> None:
    """Over 5,151 mixtures, none is better than what is found."""
    laws = [(0.5, ONE), (0.5, OTHER)]

    def objective(p: np.ndarray) -> np.ndarray:
        q = np.maximum(p, 1e-12)
        pull = (q * np.log(q / PRIOR)).sum(-1)
        return 0.5 * ONE(q) + 0.5 * OTHER(q) + kl * pull  # type: ignore[no-any-return]

    found = minimum(laws, PRIOR, NO_CAP, kl)
    best = grid()[objective(grid()).argmin()]

    assert float(objective(found)) <= objective(grid()).min() + 1e-6
    assert np.abs(found - best).max() < 0.02


def test_a_cap_holds_and_a_strong_pull_ends_at_the_prior() -> None:
    """The unconstrained minimum for `one` is a vertex."""
    free = minimum([(1.0, ONE)], PRIOR, NO_CAP, 0.0)
    capped = minimum([(1.0, ONE)], PRIOR, np.array([0.4, 1.0, 1.0]), 0.0)
    pulled = minimum([(1.0, ONE)], PRIOR, NO_CAP, 1e4)

    assert free.tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert capped.tolist() == pytest.approx([0.4, 0, 0.6], abs=1e-6)
    assert pulled.tolist() == pytest.approx(PRIOR.tolist(), abs=1e-3)


def test_caps_that_leave_no_mixture_are_said_before_the_swarm() -> None:
    """800 rows to draw of 3 x 60, twice: found out after the two runs that know the sizes."""
    run = PlanRunner(losses=losses, train_rows=60)

    with pytest.raises(ValueError, match=r"repetitions: caps .* leave no mixture; raise it"):
        MixingLaws(repetitions=2.0).plan(PlanSpec(), run)

    assert len(run.asked) == 2


def test_the_plan_finds_the_planted_optimum_under_its_cap() -> None:
    """800 rows to draw, 160 of each domain, 2 passes: no domain above .4."""
    targets = {"a": 0.5, "b": 0.5}
    free, capped = PlanRunner(losses=losses), PlanRunner(losses=losses, train_rows=160)

    MixingLaws(kl=0.0, repetitions=None).plan(PlanSpec(targets=targets), free)
    MixingLaws(kl=0.0, repetitions=2.0).plan(PlanSpec(targets=targets), capped)

    total = 0.5 * ONE(grid()) + 0.5 * OTHER(grid())
    best = grid()[total.argmin()]
    found = np.array(list(free.main.mixer.weights.values()))
    assert len(free.asked) == 33
    assert np.abs(found - best).max() < 0.02
    assert max(capped.main.mixer.weights.values()) <= 0.4 + 1e-6
