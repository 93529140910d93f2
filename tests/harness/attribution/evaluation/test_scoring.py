"""An evaluation whose scores come from stores: fitted and scored on the way, found afterwards."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from harness.attribution import score_room
from harness.attribution.evaluation.scoring import Stores
from harness.attribution.fit_spec import Factors
from harness.attribution.score import score
from harness.attribution.score_spec import Scoring
from harness.errors import SpecError
from tests.harness.attribution.evaluation.conftest import Judge


def test_scores_are_those_of_the_engine_on_every_row_and_are_found_again(judge: Judge) -> None:
    judged, lines = judge(), []
    scores = Scoring(estimators=["grad_dot", "ekfac"], rows=5)  # type: ignore[arg-type]
    factors = Factors(modules=("linear",), fitter="hooks", data_partitions=1)
    spec = replace(judged.spec, scores=scores, factors=factors)
    stores = Stores(spec, judged.places, judged.progress, lines.append)
    where = (judged.opened, judged.pool, judged.queries)

    found = {label: stores.scores(label, *where) for label in ("grad_dot", "ekfac")}

    assert found["ekfac"].shape == (len(judged.pool), len(judged.queries))
    from harness.influence.gradients import GradDot

    exact = GradDot()
    prepared = exact.prepare(judged.opened.view, {}, judged.queries.batch)
    total = exact.score(judged.opened.view, prepared, judged.pool.batch(slice(None))).total
    assert np.allclose(found["grad_dot"], total.numpy(), rtol=1e-4, atol=1e-5)
    before = len(lines)
    again = stores.scores("ekfac", *where)
    assert np.array_equal(again, found["ekfac"])
    assert any("found" in line for line in lines[before:])


@pytest.mark.parametrize("is_there", [False, True])
def test_parts_that_nobody_reads_are_not_computed(is_there: bool, judge: Judge) -> None:
    """Unless the spec's own store is there already: it is taken as it is."""
    judged = judge()
    scores = Scoring(estimators=["grad_dot"], modules=True)  # type: ignore[arg-type]
    spec = replace(judged.spec, scores=scores)
    where = (judged.opened, judged.pool, judged.queries)
    if is_there:
        score(*where, spec, "grad_dot", judged.places, say=lambda _: None)

    Stores(spec, judged.places, judged.progress, lambda _: None).scores("grad_dot", *where)

    folders = [path.parent for path in judged.places.root.glob("scores/*/about.json")]
    assert [(folder / "modules.npy").exists() for folder in folders] == [is_there]


def test_masked_scores_are_unknown(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judge()
    total, own = np.ones((5, 3), dtype=np.float32), np.ones(5, dtype=np.float32)
    store = SimpleNamespace(total=total, self_rows=own, masked_rows=[1], masked_queries=[2])
    monkeypatch.setattr(Stores, "_store", lambda *_: store)
    stores = Stores(judged.spec, judged.places, judged.progress, lambda _: None)
    where = (judged.opened, judged.pool, judged.queries)

    found, alone = stores.scores("grad_dot", *where), stores.own("grad_dot", *where)

    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(np.delete(found[:, :2], 1, 0)).all()
    assert alone is not None
    assert np.isnan(alone).tolist() == [False, True, False, False, False]
    assert np.isfinite(total).all()  # the store's own


def test_rows_have_scores_on_themselves_where_they_mean_something(judge: Judge) -> None:
    judged = judge()
    scores = Scoring(estimators=["grad_dot", "grad_cos", "directional"])  # type: ignore[arg-type]
    spec = replace(judged.spec, scores=scores)
    judged = replace(judged, spec=spec, _scores={})
    judged = replace(judged, scorer=Stores(spec, judged.places, judged.progress, lambda _: None))

    own = judged.self_influence("grad_dot", judged.opened, judged.pool)

    assert own is not None
    assert own.shape == (len(judged.pool),)
    assert (own > 0).all()
    assert judged.self_influence("grad_cos", judged.opened, judged.pool) is None
    assert judged.self_influence("directional", judged.opened, judged.pool) is None


def test_what_cannot_be_scored_is_refused_and_finished_scores_need_nothing(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Factors need not be there: they are fitted on the way."""
    judged = judge()
    scores = Scoring(estimators=["grad_dot", "ekfac"], modules=True)  # type: ignore[arg-type]
    spec = replace(judged.spec, scores=scores, factors=Factors(fitter="hooks"))
    stores = Stores(spec, judged.places, judged.progress, lambda _: None)
    where = (judged.opened, judged.pool, judged.queries)

    for label in ("grad_dot", "ekfac"):
        stores.check(label, *where)
    monkeypatch.setattr(score_room, "memory", lambda device: 1000)
    for label in ("grad_dot", "ekfac"):
        with pytest.raises(SpecError, match=f"gradients of 8 queries for '{label}' take"):
            stores.check(label, *where)
    with monkeypatch.context() as patch:
        patch.setattr(score_room, "memory", lambda device: None)
        score(*where, spec, "grad_dot", judged.places, say=lambda _: None)
    stores.check("grad_dot", *where)
