"""Exact match, F1 and ROUGE, worked out by hand."""

from __future__ import annotations

import pytest

from harness.attribution.evaluation import metrics


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The cat.", " cat", 1, 1),
        ("a cat sat", "the cat ran home", 0, 2 * 1 / (2 + 3)),
        ("cat cat dog", "cat dog dog", 0, 2 * 2 / 6),
        ("", "", 1, 1),
        ("", "cat", 0, 0),
        ("the", "a", 1, 1),  # nothing is left of either
        ("cat", "dog", 0, 0),
    ],
)
def test_exact_match_and_f1_are_squads(answer: str, right: str, exact: float, f1: float) -> None:
    assert metrics.exact_match(answer, right) == exact
    assert metrics.token_f1(answer, right) == pytest.approx(f1)


def test_rouge_counts_words_pairs_and_the_longest_common_order() -> None:
    found = metrics.rouge("police kill the gunman", "police killed the gunman")

    # stemmed, all four words agree
    assert found == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    found = metrics.rouge("the gunman police killed", "police killed the gunman")
    assert found["rouge1"] == 1.0
    assert found["rouge2"] == pytest.approx(2 / 3)  # "the gunman" and "police kill" of three
    assert found["rougeL"] == pytest.approx(0.5)


def test_every_metric_has_its_name() -> None:
    assert tuple(metrics.measured("a b", "b c")) == metrics.METRICS
