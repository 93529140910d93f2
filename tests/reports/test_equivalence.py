"""Two one-sided sign-flip tests: by hand, against scipy, and over simulated differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.equivalence import equivalence_p


def test_by_hand() -> None:
    # .1 and .2 below 1: of the four sign patterns of (.9, .8) and (1.1, 1.2) only one is as high
    assert equivalence_p(np.array([0.1, 0.2]), 1.0) == 0.25
    # at the margin and beyond: every pattern is as low as what was seen
    assert equivalence_p(np.array([1.0, 1.0]), 1.0) == 1.0
    assert equivalence_p(np.array([5.0, 5.0, 5.0]), 1.0) == 1.0


@pytest.mark.parametrize("num_pairs", [3, 6, 8])
def test_it_is_the_larger_of_scipys_one_sided_permutation_tests(num_pairs: int) -> None:
    values, margin = np.random.default_rng(num_pairs).normal(0.1, 1, num_pairs), 0.7
    below, above = (
        stats.permutation_test(
            (shifted,),
            np.mean,
            permutation_type="samples",
            alternative=alternative,
            n_resamples=np.inf,
        ).pvalue
        for shifted, alternative in ((values - margin, "less"), (values + margin, "greater"))
    )

    assert equivalence_p(values, margin) == pytest.approx(max(below, above))


def test_the_sign_of_the_differences_does_not_matter() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 7)

    assert equivalence_p(values, 0.8) == equivalence_p(-values, 0.8)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_is_none_raises(margin: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        equivalence_p(np.array([0.1, 0.2]), margin)


@pytest.mark.parametrize("truth", [1.0, -1.0, 1.3])
def test_a_difference_of_the_margin_or_more_is_rarely_called_small(truth: float) -> None:
    """10,000 times at the border, where one-sided levels are multiples of 2^-6: .0469."""
    draws = np.random.default_rng(1).normal(truth, 0.3, (10_000, 6))
    found = np.mean([equivalence_p(values, 1.0) <= 0.05 for values in draws])

    assert found <= 3 / 64 + 2 * math.sqrt(3 / 64 / 10_000)
    assert found >= 0.04 or truth == 1.3


def test_a_difference_of_0_is_found_small() -> None:
    draws = np.random.default_rng(2).normal(0, 0.3, (1000, 6))

    assert np.mean([equivalence_p(values, 1.0) <= 0.05 for values in draws]) > 0.99
