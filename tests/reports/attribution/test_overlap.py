"""Seed 002's confound: rows that begin with "What is" for a query that does."""

from __future__ import annotations

import numpy as np
import pytest

from reports.attribution.overlap import DRAWS, Overlaps, Text, warnings

SUBJECTS = ["inflation", "gravity", "copper", "justice", "sleep", "salt", "tundra", "music"]
VERBS = ["melts", "grows", "sings", "breaks", "shines", "flows", "burns", "fades"]
WHAT_IS = [Text(f"What is the {s} of {v}?", "It is so.") for s in SUBJECTS for v in VERBS]
TELLING = [Text(f"{s.capitalize()} {v} near old towns", "Yes.") for s in SUBJECTS for v in VERBS]
ROWS = [*WHAT_IS, *TELLING]
EVERY = np.arange(len(ROWS))


def test_rows_of_the_same_form_alone_are_warned_of() -> None:
    query = Text("What is the capital of Bolivia?", "Sucre.")
    overlaps = Overlaps(ROWS, [query])

    (told,) = warnings([overlaps.of(0, [0, 9, 18, 27, 36], EVERY)])

    assert told.startswith("The most helpful rows share 100% of this query's form")
    assert "random rows share 5" in told  # half of all rows have it
    assert "[95 % of draws: " in told
    assert "(0% against 0%)" in told


def test_rows_that_share_what_is_asked_are_not() -> None:
    """They begin alike too, but they are also about it."""
    query = Text("What is the gravity of copper?", "g")
    rows = [*ROWS, *(Text(f"What is the gravity of copper {w}?", "g") for w in "abcde")]
    overlaps = Overlaps(rows, [query])

    found = overlaps.of(0, range(len(ROWS), len(rows)), np.arange(len(rows)))

    assert found.form > 0.9
    assert found.p < 0.05
    assert found.content == 1
    assert warnings([found]) == [""]


def test_a_form_that_every_row_has_is_no_confound() -> None:
    overlaps = Overlaps(WHAT_IS, [Text("What is the capital of Bolivia?", "")])

    found = overlaps.of(0, [0, 9, 18], np.arange(len(WHAT_IS)))

    assert found.form == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0)
    assert warnings([found]) == [""]


def test_random_rows_are_rarely_warned_of() -> None:
    """At a false discovery rate of 5 %, random top rows of 200 queries give hardly one."""
    generator = np.random.default_rng(7)
    queries = [Text(f"What is the number {i} of it?", "") for i in range(200)]
    overlaps = Overlaps(ROWS, queries)
    found = [overlaps.of(q, generator.choice(len(ROWS), 5, False), EVERY) for q in range(200)]

    assert sum(told != "" for told in warnings(found)) <= 2
    assert 0.02 < np.mean([one.p < 0.1 for one in found]) < 0.4  # few values a mean can have


def test_overlaps_by_hand() -> None:
    """Two of three opening words; function words what-is-of against what-is-in-the."""
    query, row = Text("What is dew of dawn", ""), Text("What is in the dew", "of no matter")
    overlaps = Overlaps([row], [query])

    # pairs: {what is, is of} and {what is, is in, in the}: one of four
    assert overlaps.form[0, 0] == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert overlaps.content[0, 0] == pytest.approx(1 / 2)  # dew, not dawn
    plain = Overlaps([Text("", "what is in the dew")], [query])
    assert plain.form[0, 0] == overlaps.form[0, 0]
    one = overlaps.of(0, [0], np.array([0]))
    assert one.p == 1
    assert one.low == one.high == one.form
    assert DRAWS == 2000


def test_texts_without_words_overlap_with_nothing() -> None:
    overlaps = Overlaps([Text("", ""), Text("!", "")], [Text("", ""), Text("Why?", "")])

    assert not overlaps.form.any()
    assert not overlaps.content.any()
