"""The statistics against hand-made cases, against scipy, and on simulated seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports import stats
from reports.power import smallest_p


def paired(values: list[float]) -> stats.Paired:
    return stats.paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))


def test_differences_pair_by_seed_and_a_lower_arm_is_negative() -> None:
    arm, baseline = {0: 1.0, 1: 2.0, 5: 9.0}, {1: 2.5, 0: 1.3, 7: 0.0}

    pair = stats.paired_difference(arm, baseline)

    assert pair.differences == pytest.approx({0: -0.3, 1: -0.5})
    assert pair.mean == pytest.approx(-0.4)
    assert pair.num_pairs == 2


def test_the_interval_is_scipys_one_sample_t_interval() -> None:
    values = [-0.3, -0.1, -0.2, 0.05, -0.4, -0.15]
    low, high = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)

    pair = paired(values)

    assert (pair.low, pair.high) == pytest.approx((low, high))


def test_one_pair_has_a_difference_but_neither_sd_nor_interval() -> None:
    pair = paired([-0.2])

    assert pair.mean == pytest.approx(-0.2)
    assert math.isnan(pair.sd)
    assert math.isnan(pair.low)
    assert pair.p == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="seed 1"):
        stats.paired_difference({0: 1.0, 1: bad}, {0: 1.0, 1: 1.0})
    with pytest.raises(ValueError, match="finite"):
        stats.sign_flip_p(np.array([0.1, bad]))


def test_arms_without_a_common_seed_raise() -> None:
    with pytest.raises(ValueError, match="no seed"):
        stats.paired_difference({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize("num_pairs", range(2, 13))
def test_the_smallest_p_is_reached_when_every_difference_has_one_sign(num_pairs: int) -> None:
    values = np.random.default_rng(0).uniform(0.1, 1, num_pairs)

    assert stats.sign_flip_p(-values) == 2.0 ** (1 - num_pairs) == smallest_p(num_pairs)


@pytest.mark.parametrize("num_pairs", [2, 3, 6, 9, 12])
def test_the_sign_flip_p_is_scipys_exact_permutation_p(num_pairs: int) -> None:
    values = np.random.default_rng(num_pairs).normal(-0.3, 1, num_pairs)
    exact = scipy_stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf
    )

    assert stats.sign_flip_p(values) == pytest.approx(exact.pvalue)


def test_the_sign_flip_p_counts_ties_and_zeros_by_hand() -> None:
    # Sums of (+-1, +-1, +-1): |3| twice, |1| six times; the observed |1| counts all eight.
    assert stats.sign_flip_p(np.array([1.0, 1.0, -1.0])) == 1.0
    # 0.1 + 0.2 and 0.3 differ in the last bit; flipping the zero changes nothing.
    assert stats.sign_flip_p(np.array([0.1, 0.2, 0.3, 0.0])) == 0.25
    assert stats.sign_flip_p(np.zeros(6)) == 1.0


@pytest.mark.parametrize("num_pairs", [2, 5, 8])
def test_one_tail_is_scipys_exact_permutation_p(num_pairs: int) -> None:
    values = np.random.default_rng(num_pairs).normal(0.2, 1, num_pairs)
    for sign in (1, -1):
        exact = scipy_stats.permutation_test(
            (sign * values,),
            np.sum,
            permutation_type="samples",
            alternative="greater",
            n_resamples=np.inf,
        )

        assert stats.upper_tail(sign * values) == pytest.approx(exact.pvalue)


def test_many_seeds_stay_exact_and_fast() -> None:
    assert stats.sign_flip_p(np.full(30, -1.0)) == 2.0**-29
    assert stats.sign_flip_p(np.full(50, -1.0)) <= 1e-4


def test_holm_by_hand() -> None:
    adjusted = stats.holm({"a": 0.04, "b": 0.01, "c": 0.03})

    assert adjusted == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def simulated(num_pairs: int, effect: float, draws: int) -> np.ndarray:
    return np.random.default_rng(2026).normal(effect, 1, (draws, num_pairs))


@pytest.mark.parametrize("num_pairs", [6, 8])
def test_null_differences_are_called_at_most_at_the_stated_rate(num_pairs: int) -> None:
    draws = 10_000
    rejected = np.mean([stats.sign_flip_p(v) <= 0.05 for v in simulated(num_pairs, 0, draws)])
    # Exact p values are discrete: the true rate is the largest attainable level up to .05.
    attainable = math.floor(0.05 / smallest_p(num_pairs)) * smallest_p(num_pairs)

    assert abs(rejected - attainable) < 3 * math.sqrt(attainable * (1 - attainable) / draws)
