"""Rank correlations and their intervals, beside scipy's on the drawn samples written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from harness.attribution.evaluate_spec import Evaluating
from reports.attribution.agreement import (
    Draws,
    ceiling,
    draws,
    estimate,
    mean_interval,
    per_query,
    resampled,
    shown,
    spearman,
)


def test_weighted_ranks_are_those_of_the_sample_written_out() -> None:
    generator = np.random.default_rng(5)
    one, other = generator.integers(0, 6, 20).astype(float), generator.normal(size=20)
    counts = generator.multinomial(20, [1 / 20] * 20, 7)

    found = spearman(one, other, counts)

    expected = [spearmanr(np.repeat(one, c), np.repeat(other, c)).statistic for c in counts]
    assert np.allclose(found, expected)


def test_a_flat_vector_ranks_nothing() -> None:
    flat, other = np.ones(9), np.arange(9.0)

    assert spearman(flat, other, np.ones((1, 9))).tolist() == [0.0]


def test_a_score_is_the_mean_over_queries_and_over_what_is_drawn() -> None:
    generator = np.random.default_rng(1)
    predicted, actual = generator.normal(size=(2, 12, 4))
    drawn = draws(12, 4, resamples=3)

    found = resampled(predicted, actual, drawn)

    assert np.allclose(
        per_query(predicted, actual),
        [spearmanr(predicted[:, q], actual[:, q]).statistic for q in range(4)],
    )
    for b in range(3):
        at, chosen = (np.repeat(np.arange(len(c)), c) for c in (drawn.subsets[b], drawn.queries[b]))
        own = [spearmanr(predicted[at, q], actual[at, q]).statistic for q in chosen]
        assert found[b] == pytest.approx(np.mean(own))


def test_draws_are_keyed_and_the_same_for_all() -> None:
    one, other = draws(5, 3, 10), draws(5, 3, 10)

    assert isinstance(one, Draws)
    assert np.array_equal(one.subsets, other.subsets)
    assert np.array_equal(one.queries, other.queries)
    assert not np.array_equal(one.subsets, draws(5, 3, 10, key=1).subsets)
    assert (one.subsets.sum(1) == 5).all()
    assert (one.queries.sum(1) == 3).all()


@pytest.mark.parametrize("size", [Evaluating().removal_queries, Evaluating().facts, 40])
def test_nothing_is_shown_of_noise_more_often_than_said(size: int) -> None:
    """At the default sizes, too: one side of 5 % is 2.5 %, within what 4000 draws allow."""
    generator = np.random.default_rng(0)
    found = [mean_interval(generator.normal(size=size)) for _ in range(4000)]

    assert np.mean([one.sign > 0 for one in found]) == pytest.approx(0.025, abs=0.0075)
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.01)
    assert all((one.p <= 0.05) == (one.sign != 0) for one in found)


def test_of_few_values_nothing_is_shown() -> None:
    few = mean_interval(np.array([1.0, 1.1, 0.9, 1.0, 1.05]))

    assert few.low > 0
    assert few.sign == 0
    assert estimate(1.0, np.linspace(0.5, 2, 100), 5).sign == 0


def test_among_many_labels_nothing_is_shown_by_chance() -> None:
    """Of 10 rankings of noise some interval leaves zero out in 40 %, and some claim in 5 %."""
    generator = np.random.default_rng(1)
    single = family = 0
    for _ in range(1000):
        noise = {f"label {i}": mean_interval(generator.normal(size=12)) for i in range(10)}
        single += any(one.sign for one in noise.values())
        family += any(shown(noise).values())

    assert single / 1000 > 0.3
    assert family / 1000 == pytest.approx(0.05, abs=0.02)
    clear = mean_interval(5 + generator.normal(size=12))
    assert shown({**noise, "clear": clear})["clear"] == 1
    assert shown({**noise, "clear": mean_interval(generator.normal(size=12) - 5)})["clear"] == -1


def test_one_value_has_no_interval() -> None:
    found = mean_interval(np.array([2.0]))

    assert found.value == 2.0
    assert math.isnan(found.low)
    assert found.sign == 0


def test_the_sign_of_an_estimate_is_that_of_its_whole_interval() -> None:
    assert estimate(1.0, np.linspace(0.5, 2, 100), 9).sign == 1
    assert estimate(-1.0, -np.linspace(0.5, 2, 100), 9).sign == -1
    assert estimate(0.1, np.linspace(-1, 2, 100), 9).sign == 0


def test_the_ceiling_is_what_the_truth_itself_scores() -> None:
    """Replicas are the truth with noise: the truth correlates with their mean by the ceiling."""
    generator = np.random.default_rng(2)
    truth = generator.normal(size=20_000)
    replicas = truth + 1.5 * generator.normal(size=(2, 20_000))
    agreement = float(np.corrcoef(replicas)[0, 1])

    found = ceiling(agreement, 2)

    assert found == pytest.approx(np.corrcoef(truth, replicas.mean(0))[0, 1], abs=0.01)
    assert ceiling(0.36, 1) == pytest.approx(0.6)
    assert math.isnan(ceiling(-0.1, 2))
