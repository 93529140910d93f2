"""Scores that know nothing of gradients."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.attribution.evaluation import baselines
from harness.attribution.opened import Opened
from harness.attribution.places import Places
from harness.attribution.rows import Pool, Queries
from harness.attribution.score import score
from harness.attribution.score_spec import Scoring
from harness.attribution.spec import Attribution
from harness.attribution.store import ScoreStore
from harness.errors import SpecError


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_scores_are_rows_by_queries_and_come_again(
    name: str, opened: Opened, pool: Pool, queries: Queries
) -> None:
    scorer = baselines.BASELINES[name]

    found = scorer(opened, pool, queries, 3)

    assert found.shape == (len(pool), len(queries))
    assert np.isfinite(found).all()
    assert np.array_equal(found, scorer(opened, pool, queries, 3))


def test_similarity_is_the_cosine_of_mean_states_of_what_is_predicted(
    opened: Opened, pool: Pool, queries: Queries
) -> None:
    found = baselines.similarity(opened, pool, queries, 0)

    def mean(batch: object, row: int) -> torch.Tensor:
        tokens = batch.inputs[row][None]  # type: ignore[attr-defined]
        states = opened.view.model(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
        return states[0][batch.mask[row]].mean(0)  # type: ignore[attr-defined]

    with torch.no_grad():
        row, query = mean(pool.batch([7]), 0), mean(queries.batch, 3)
    expected = torch.cosine_similarity(row, query, dim=0)
    assert found[7, 3] == pytest.approx(float(expected), abs=1e-5)


def test_a_query_is_most_like_itself(opened: Opened, pool: Pool, queries: Queries) -> None:
    batch, shown = pool.batch([4, 9]), (pool.shown(4), pool.shown(9))
    own = replace(queries, batch=batch, shown=shown, names=("four", "nine"), id="rows")

    for name in ("similarity", "bm25"):
        found = baselines.BASELINES[name](opened, pool, own, 0)
        assert found.argmax(0).tolist() == [4, 9], name


def test_bm25_is_lucenes(opened: Opened, pool: Pool, queries: Queries) -> None:
    """One word of one row: idf times its damped count, k1 = 1.5, b = 0.75."""
    found = baselines.bm25(opened, pool, queries, 0)
    words = [
        pool.shown(i).text.lower().replace("?", " ").replace(",", " ") for i in range(len(pool))
    ]

    split = [re.findall(r"\b\w\w+\b", text) for text in words]
    mean = sum(map(len, split)) / len(split)
    asked = re.findall(r"\b\w\w+\b", queries.shown[2].text.lower())

    def score(row: list[str]) -> float:
        total = 0.0
        for word in asked:  # as often as the query has it
            with_it = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - with_it + 0.5) / (with_it + 0.5))
            count = row.count(word)
            total += idf * count / (count + 1.5 * (0.25 + 0.75 * len(row) / mean))
        return total

    assert np.allclose(found[:, 2], [score(row) for row in split], atol=1e-3)


def test_random_scores_depend_on_their_seed(opened: Opened, pool: Pool, queries: Queries) -> None:
    one, other = (baselines.random(opened, pool, queries, seed) for seed in (0, 1))

    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_a_baseline_is_scored_into_a_store_like_any_estimator(
    name: str, opened: Opened, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    spec = Attribution(
        name="b",
        run=str(opened.folder),
        scores=Scoring(estimators={"own": {"kind": name, "seed": 3}}, chunk_rows=7),
    )

    folder = score(opened, pool, queries, spec, "own", Places(tmp_path, "b"), say=lambda _: None)

    store = ScoreStore.open(folder)
    assert np.allclose(store.total, baselines.BASELINES[name](opened, pool, queries, 3), atol=1e-6)
    assert store.about["estimator"] == name
    assert "nothing of a loss is known" in store.about["sign"]  # no gradient says so
    wrong = replace(spec, scores=Scoring(estimators={"own": {"kind": name, "sed": 3}}))
    with pytest.raises(SpecError, match=r"^scores\.estimators\.own\.sed"):
        score(opened, pool, queries, wrong, "own", Places(tmp_path, "b"))
    assert [row.row for row in store.rows()] == [row for _, row in pool.picks]


def test_rows_are_decoded_many_at_once_as_one_by_one(pool: Pool) -> None:
    asked = [*range(len(pool)), *range(0, len(pool), 3)] * 5  # more than are decoded at once

    found = pool.texts(asked)

    assert len(found) > 256
    assert found[: len(pool)] == pool.texts() == [pool.shown(i) for i in range(len(pool))]
    assert found == [found[i] for i in asked]
