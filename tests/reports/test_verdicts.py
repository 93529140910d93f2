"""Verdict words: what earns each, what forbids all, and how often a false one is given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reports.calibration import NULLS, families, found_within, paired, power_at, share, t_coverage
from reports.effects import detectable_effect
from reports.power import ALPHA, seeds_needed, smallest_p
from reports.verdicts import verdicts


@pytest.mark.parametrize(("family", "fewest"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8)])
def test_the_fewest_seeds_are_those_whose_smallest_corrected_p_reaches_the_level(
    family: int, fewest: int
) -> None:
    assert seeds_needed(family) == fewest
    assert family * smallest_p(fewest) <= ALPHA < family * smallest_p(fewest - 1)


def test_five_seeds_can_never_be_a_verdict_however_large_the_effect() -> None:
    verdict = verdicts(["a"], {"a": paired([-10.0, -11.0, -10.5, -10.2, -10.1])})["a"]

    assert verdict.word == "no verdict"
    assert "2^(1-5) = 0.0625, which can never reach 0.05" in verdict.reason
    assert "6 paired seeds are the fewest" in verdict.reason


def test_six_seeds_decide_one_method_but_not_two() -> None:
    lower, higher = paired([-1.0 - k / 10 for k in range(6)]), paired([1.0 + k for k in range(6)])

    assert verdicts(["a"], {"a": lower})["a"].word == "better"
    assert verdicts(["a"], {"a": higher})["a"].word == "worse"
    two = verdicts(["a", "b"], {"a": lower, "b": higher})
    assert {v.word for v in two.values()} == {"no verdict"}
    assert "corrected for 2 methods (Holm) it is 0.0625" in two["a"].reason


def test_a_method_without_a_finished_seed_still_counts_in_the_family() -> None:
    lower = paired([-1.0 - k / 10 for k in range(6)])

    judged = verdicts(["a", "lost"], {"a": lower})

    assert judged["a"].word == "no verdict"
    assert judged["lost"].reason == "no seed has finished in both arms"


NEAR = [-0.02, -0.01, -0.03, -0.02, -0.015, -0.025]  # all of one sign, and small
AROUND = [-0.02, 0.01, 0.03, -0.02, 0.015, -0.01]


def test_without_a_margin_nothing_is_equivalent() -> None:
    verdict = verdicts(["a"], {"a": paired(AROUND)})["a"]

    assert verdict.word == "undecided"
    assert math.isnan(verdict.equivalence_p)
    assert "margin" not in verdict.reason


def test_a_difference_too_small_to_be_worth_having_is_equivalent() -> None:
    verdict = verdicts(["a"], {"a": paired(AROUND)}, margin=0.1)["a"]

    assert verdict.word == "equivalent"
    assert verdict.equivalence_p == 2**-6  # both one-sided tests at their floor
    assert "within the margin of 0.1 bits per byte" in verdict.reason
    assert "not told apart from 0: p = " in verdict.reason


def test_an_arm_that_is_better_by_less_than_is_worth_having_is_better_and_says_so() -> None:
    lower, higher = (
        verdicts(["a"], {"a": paired(sign * np.array(NEAR))}, margin=0.1)["a"] for sign in (1, -1)
    )

    assert (lower.word, higher.word) == ("better", "worse")
    for verdict in (lower, higher):
        assert "yet within the margin of 0.1 bits per byte" in verdict.reason


def test_an_effect_beyond_the_margin_says_nothing_of_it() -> None:
    verdict = verdicts(["a"], {"a": paired([-1.0 - k / 10 for k in range(6)])}, margin=0.1)["a"]

    assert verdict.word == "better"
    assert verdict.equivalence_p == 1.0
    assert "margin" not in verdict.reason


def test_what_is_neither_is_undecided_with_both_p_values() -> None:
    verdict = verdicts(["a"], {"a": paired(AROUND)}, margin=0.02)["a"]

    assert verdict.word == "undecided"
    assert "nor that it is within the margin of 0.02 bits per byte (TOST p = " in verdict.reason


def test_equivalence_is_corrected_for_the_family() -> None:
    """A p of 6/128 is enough for one method, and twice as much not for two."""
    values = [-0.9, 0.5, 0.3, -0.4, 0.2, 0.1, 0.25]
    alone = verdicts(["a"], {"a": paired(values)}, margin=0.4)["a"]
    two = verdicts(["a", "b"], {"a": paired(values), "b": paired(values)}, margin=0.4)["a"]

    assert alone.word == "equivalent"
    assert two.word == "undecided"
    assert two.equivalence_p == 2 * alone.equivalence_p


def test_too_few_seeds_are_not_called_equivalent_either() -> None:
    assert verdicts(["a"], {"a": paired(AROUND[:5])}, margin=9.0)["a"].word == "no verdict"


def two_errors(rate: float, draws: int) -> float:
    return 2 * math.sqrt(rate * (1 - rate) / draws)


def test_of_10000_families_without_an_effect_at_most_one_in_twenty_has_a_false_verdict() -> None:
    wrong = share(families([0.0, 0.0], 7, None), "better", "worse")

    assert wrong <= ALPHA + two_errors(ALPHA, NULLS)
    # 2 x 1/64 is all that the exact test can spend at seven seeds; arms share their baseline.
    assert wrong >= 0.02


def test_of_10000_families_just_at_the_margin_at_most_one_in_twenty_has_an_arm_within_it() -> None:
    """An arm at either border, the least favorable case.

    The corrected p is looked at and not the word: these arms are told apart from 0 as well, and
    are then called by their sign.
    """
    judged = families([4.0, -4.0], 7, 4.0)
    wrong = found_within(judged)

    assert 0.02 <= wrong <= ALPHA + two_errors(ALPHA, NULLS)
    assert share(judged, "equivalent") <= wrong


def test_of_one_method_any_false_word_is_rare_wherever_the_truth_lies() -> None:
    """0 is no difference and no margin at once, so the two kinds of error never add up."""
    for truth in (0.0, 1.2):  # a margin that is about what six seeds can show
        judged = families([truth], 6, 1.2)
        wrong = share(judged, *(["better", "worse"] if truth == 0 else ["better", "equivalent"]))

        assert wrong <= ALPHA + two_errors(ALPHA, NULLS)
        assert truth or wrong >= 0.02


@pytest.mark.parametrize(("num_pairs", "family"), [(6, 1), (8, 1), (8, 3)])
def test_a_planted_effect_is_found_as_often_as_stated(num_pairs: int, family: int) -> None:
    """At the detectable effect, in a family whose other arms have none, with the right word."""
    draws, effect = 4000, detectable_effect(num_pairs, ALPHA / family, 0.8)

    found = power_at(effect, num_pairs, family, draws)

    assert 0.8 - two_errors(0.8, draws) <= found <= 0.83


@pytest.mark.parametrize("num_pairs", [3, 6, 8])
def test_the_t_interval_covers_the_truth_95_times_in_100(num_pairs: int) -> None:
    assert abs(t_coverage(num_pairs) - 0.95) < 0.01


def test_arms_without_an_effect_are_found_equivalent_where_the_margin_is_wide() -> None:
    judged = families([0.0, 0.0], 10, 1.5, 300)
    words = [v.word for one in judged for v in one.values()]

    assert words.count("equivalent") > 0.9 * len(words)
