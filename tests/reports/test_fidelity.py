"""What a report says of the estimators behind its arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports import figures
from reports.build import contents
from reports.fidelity import comparisons, fidelity_table, reading
from reports.headline import headline
from reports.load import load


def test_comparisons_are_summed_up_by_arm(eight: Path) -> None:
    """By hand: the mean of .4 + step / 10,000; 3e9 FLOPs over .5e9 and 1e9 / 20 for each of 80."""
    evidence = load(eight)
    found, table = comparisons(evidence), fidelity_table(evidence)
    (row,) = table.to_dict("records")

    assert row["arm"] == "influence"
    assert row["num_comparisons"] == len(found) > 0
    assert row["spearman"] == pytest.approx((0.4 + found["step"] / 10_000).mean())
    assert row["lowest"] == pytest.approx(0.406)
    assert row["cost_ratio"] == pytest.approx(3 / (0.5 + 80 / 20))
    assert row["reading"] == "does not follow the exact influence"
    assert (found["seed"].nunique(), set(found["arm"])) == (
        len(evidence.header["seeds"]),
        {"influence"},
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.95, "follows the exact influence"),
        (0.9, "follows the exact influence"),
        (0.6, "follows the exact influence, roughly"),
        (0.49, "does not follow the exact influence"),
        (float("nan"), "does not follow the exact influence"),
    ],
)
def test_words_of_a_rank_correlation(value: float, words: str) -> None:
    """Limits belong to the better word."""
    assert reading(value) == words


def test_a_broken_estimator_is_said_among_the_findings(eight: Path) -> None:
    """So that nobody takes it for a verdict on influence."""
    texts = [s.text for s in headline(load(eight)) if s.kind == "warning"]

    assert any("influence scored rows by jvp_landmark, which does not follow" in t for t in texts)


def test_the_figure_says_in_words_what_it_shows(eight: Path) -> None:
    """One panel, for who cannot see it too."""
    (panel,) = figures.fidelity(load(eight))

    assert "influence 0.4" in panel.alt
    assert contents(load(eight))["fidelity"][0]["estimator"] == "jvp_landmark"
