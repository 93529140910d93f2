"""Detectable effects and numbers of seeds: by formula where there is one, else by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.effects import detectable_effect, seeds_for
from reports.stats import sign_flip_p


def test_where_all_signs_must_agree_the_effect_has_a_formula() -> None:
    """At six seeds and .05, or seven and .025: n normal values are all above 0."""
    for num_pairs, level in ((6, 0.05), (7, 0.025)):
        expected = stats.norm.ppf(0.8 ** (1 / num_pairs))

        assert detectable_effect(num_pairs, level, 0.8) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("num_pairs", "level"), [(7, 0.05), (8, 0.05 / 3), (11, 0.05)])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9])
def test_the_sign_flip_test_finds_it_as_often_as_stated(
    num_pairs: int, level: float, power: float
) -> None:
    effect = detectable_effect(num_pairs, level, power)
    drawn = np.random.default_rng(3).normal(effect, 1, (4000, num_pairs))

    found = np.mean([sign_flip_p(values) <= level and values.mean() > 0 for values in drawn])

    assert found == pytest.approx(power, abs=0.02)


def test_beyond_twelve_seeds_t_stands_for_sign_flips() -> None:
    """The t test's own effect, and 3,000 sign-flip tests that find it nearly as often."""
    effect = detectable_effect(14, 0.05, 0.8)
    bound, center = stats.t.ppf(0.975, 13), effect * math.sqrt(14)
    drawn = np.random.default_rng(4).normal(effect, 1, (3000, 14))

    found = np.mean([sign_flip_p(values) <= 0.05 for values in drawn])

    assert stats.nct.sf(bound, 13, center) == pytest.approx(0.8, abs=1e-3)
    assert found == pytest.approx(0.8, abs=0.025)


def test_more_seeds_and_fewer_methods_find_smaller_effects() -> None:
    by_seeds = [detectable_effect(n, 0.05, 0.8) for n in (6, 7, 8, 10, 12, 13, 20, 50, 500)]

    assert by_seeds == sorted(by_seeds, reverse=True)
    assert detectable_effect(8, 0.05 / 3, 0.8) > detectable_effect(8, 0.05, 0.8)
    assert detectable_effect(8, 0.05, 0.9) > detectable_effect(8, 0.05, 0.8)


def test_nothing_is_detectable_where_no_outcome_reaches_the_level() -> None:
    assert math.isnan(detectable_effect(5, 0.05, 0.8))
    assert math.isnan(detectable_effect(1, 0.05, 0.8))
    assert math.isnan(detectable_effect(6, 0.025, 0.8))


def test_the_seeds_are_the_fewest_that_find_the_effect() -> None:
    for effect in (1.5, 1.0, 0.5, 0.1):
        seeds = seeds_for(effect, 1.0, 0.05, 0.8)

        assert seeds is not None
        assert detectable_effect(seeds, 0.05, 0.8) <= effect
        assert not detectable_effect(seeds - 1, 0.05, 0.8) <= effect


def test_the_seeds_find_the_effect_when_it_is_planted() -> None:
    """In bits per byte: a difference of .01 with a spread of .012, at Holm's level for two."""
    seeds = seeds_for(0.01, 0.012, 0.025, 0.8)
    assert seeds is not None
    drawn = np.random.default_rng(5).normal(-0.01, 0.012, (2000, seeds))

    found = np.mean([sign_flip_p(values) <= 0.025 for values in drawn])

    assert found >= 0.8 - 2 * math.sqrt(0.16 / 2000)


def test_seeds_have_a_floor_and_an_end() -> None:
    assert seeds_for(1.0, 0.0, 0.05, 0.8) == 6  # without noise the floor of p remains
    assert seeds_for(1.0, 1e-9, 0.0125, 0.8) == 8
    assert seeds_for(1e-6, 1.0, 0.05, 0.8) is None
    with pytest.raises(ValueError, match="above 0"):
        seeds_for(0.0, 1.0, 0.05, 0.8)
