"""Scores that are no numbers: named, masked, computed again or damped, and always on record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.attribution import score, score_run
from harness.attribution.places import Places
from harness.attribution.rows import Pool, Queries
from harness.attribution.score_spec import Scoring
from harness.attribution.spec import Attribution
from harness.attribution.store import ScoreStore
from harness.errors import SpecError
from harness.influence import row_gradients
from harness.influence.ekfac import Ekfac
from harness.influence.gradients import GradDot

MLP = "transformer.h.0.mlp.c_fc"


def asked(given: Any, **options: Any) -> Attribution:
    options = {"chunk_rows": 8, "rows": 24, **options}
    return Attribution(name="t", run="r", scores=Scoring(estimators={"x": given}, **options))


def scored(opened: Any, pool: Pool, queries: Queries, spec: Attribution, out: Path) -> ScoreStore:
    folder = score.score(opened, pool, queries, spec, "x", Places(out, "t"), say=lambda _: None)
    return ScoreStore.open(folder)


def spoil_loss(monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    """Make the loss of one train row NaN, as a row that overflows has it."""
    plain = row_gradients.row_losses

    def spoiled(model: Any, rows: Any, reduction: Any) -> Any:
        losses = plain(model, rows, reduction)
        return losses * torch.where(rows.rows == row, float("nan"), 1.0)

    monkeypatch.setattr(row_gradients, "row_losses", spoiled)


def spoil_score(monkeypatch: pytest.MonkeyPatch, factor: float, only: str = "") -> None:
    """Make scores too large for float32, in one precision if asked."""
    plain = GradDot.score

    def large(self: GradDot, view: Any, prepared: Any, rows: Any) -> Any:
        found = plain(self, view, prepared, rows)
        if only not in ("", self.precision):
            return found
        parts = None if found.modules is None else found.modules * factor
        return replace(found, total=found.total * factor, modules=parts)

    monkeypatch.setattr(GradDot, "score", large)


def stopped(
    opened: Any,
    pool: Pool,
    queries: Queries,
    spec: Attribution,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Stop before the third chunk; return what has been decided until then."""
    plain = score_run._chunk

    def stop(job: Any, scorer: Any, scores: Any, decided: Any, chunk: int, rows: slice) -> None:
        if chunk == 2:
            raise KeyboardInterrupt
        plain(job, scorer, scores, decided, chunk, rows)

    monkeypatch.setattr(score_run, "_chunk", stop)
    with pytest.raises(KeyboardInterrupt):
        scored(opened, pool, queries, spec, out)
    monkeypatch.setattr(score_run, "_chunk", plain)
    (state,) = (out / "attribution/t/scores").glob("*/job.json")
    return json.loads(state.read_text())


def untold(queries: Queries, *places: int) -> Queries:
    """Return the queries with some that have no target."""
    mask = queries.batch.mask.clone()
    mask[list(places)] = False
    return replace(queries, batch=replace(queries.batch, mask=mask), id="cut")


def test_a_row_without_a_number_stops_and_is_named(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = int(scorers_rows(pool)[10])
    spoil_loss(monkeypatch, bad)

    with pytest.raises(SpecError) as refused:
        scored(opened, pool, queries, asked("grad_dot"), tmp_path)

    said = str(refused.value)
    assert f"row {bad} of domain 'qa'" in said
    assert said.startswith("scores of 'x': ")
    assert said.endswith('scores.on_nonfinite: "mask" leaves out what is to blame')
    assert "\n" not in said
    assert isinstance(refused.value, FloatingPointError)


def scorers_rows(pool: Pool) -> list[int]:
    """Return the 24 rows of the pool that are scored."""
    from harness.attribution.score_job import some_rows

    return [row for _, row in some_rows(pool, 24).picks]


def test_a_masked_row_has_zeros_and_is_written_down(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = scored(opened, pool, queries, asked("grad_dot"), tmp_path / "a").total
    spoil_loss(monkeypatch, scorers_rows(pool)[10])
    spec = asked("grad_dot", on_nonfinite="mask")

    store = scored(opened, pool, queries, spec, tmp_path / "b")

    assert store.masked_rows == [10]
    assert "is not finite in loss" in store.about["masked_rows"][0]["why"]
    assert store.about["rungs"] == [{"rung": "mask", "rows": 1, "queries": 0}]
    assert not store.total[10].any()
    kept = np.arange(24) != 10
    np.testing.assert_allclose(store.total[kept], plain[kept], rtol=1e-4, atol=1e-9)
    with pytest.raises(SpecError, match="these scores needed mask; set scores"):
        scored(opened, pool, queries, asked("grad_dot"), tmp_path / "b")


def test_a_query_without_a_target_is_no_silent_zero(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    cut = untold(queries, 2)

    with pytest.raises(SpecError, match=rf"query '{queries.names[2]}' has no counted target"):
        scored(opened, pool, cut, asked("grad_dot"), tmp_path)

    store = scored(opened, pool, cut, asked("grad_dot", on_nonfinite="mask"), tmp_path)
    plain = scored(opened, pool, queries, asked("grad_dot"), tmp_path)
    assert store.masked_queries == [2]
    kept = [q for q in range(8) if q != 2]
    assert not store.total[:, 2].any()
    np.testing.assert_allclose(store.total[:, kept], plain.total[:, kept], rtol=1e-4, atol=1e-9)


def test_a_query_that_is_no_number_is_named_and_masked(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = 3
    spoil_loss(monkeypatch, int(queries.batch.rows[place]))
    name = queries.names[place]
    clean = pool.only(
        [i for i, p in enumerate(pool.picks) if p[1] != int(queries.batch.rows[place])]
    )

    with pytest.raises(SpecError, match=rf"1 of 8 queries, first '{name}'"):
        scored(opened, clean, queries, asked("grad_dot"), tmp_path)
    store = scored(opened, clean, queries, asked("grad_dot", on_nonfinite="mask"), tmp_path)

    assert store.masked_queries == [place]
    assert store.about["masked_queries"][0]["name"] == name


def test_a_score_that_overflows_names_count_query_row_and_module(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_score(monkeypatch, 1e60)

    with pytest.raises(SpecError) as refused:
        scored(opened, pool, queries, asked("grad_dot"), tmp_path)

    said = str(refused.value)
    assert "scores of 'x': 64 of 64 scores not finite" in said
    assert f"query {queries.names[0]!r}, train row {scorers_rows(pool)[0]} of domain 'qa'" in said
    assert "does not fit float32, most of it in module transformer.h." in said


def test_rows_are_computed_again_in_float32(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"kind": "grad_dot", "precision": "bfloat16"}
    spoil_score(monkeypatch, float("inf"), only="bfloat16")

    store = scored(opened, pool, queries, asked(small, on_nonfinite="retry-float32"), tmp_path)
    plain = scored(opened, pool, queries, asked("grad_dot"), tmp_path)

    np.testing.assert_allclose(store.total, plain.total, rtol=1e-4, atol=1e-9)
    assert [rung["rows"] for rung in store.about["rungs"]] == [[0, 8], [8, 16], [16, 24]]
    assert {rung["rung"] for rung in store.about["rungs"]} == {"retry-float32"}
    spoil_score(monkeypatch, float("inf"))
    with pytest.raises(SpecError, match="in float32 too"):
        scored(
            opened,
            pool,
            queries,
            asked({**small, "biases": False}, on_nonfinite="retry-float32"),
            tmp_path,
        )
    spec = asked({"kind": "grad_dot", "biases": False}, on_nonfinite="retry-float32")
    with pytest.raises(SpecError, match="it is in float32 already"):
        scored(opened, pool, queries, spec, tmp_path)


@pytest.fixture
def dead(opened: Any, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors in which a module has directions without any curvature."""
    engine = Ekfac(fitter="hooks", modules=("mlp",))
    state = engine.fit(opened.view, pool.batch(slice(0, 40)))
    state[f"lambda:{MLP}"][:4] = 0.0
    found = lambda opened, pool, spec, chosen, places: (state, chosen.estimator)  # noqa: E731
    monkeypatch.setattr(score_run, "fitted_factors", found)
    monkeypatch.setattr("harness.attribution.score_job.factors_key", lambda *_: "dead")


def undamped(**options: Any) -> Attribution:
    return asked({"kind": "ekfac", "damping": 1e-60, "damping_unit": "absolute"}, **options)


@pytest.mark.usefixtures("dead")
def test_an_inverse_that_overflows_is_named(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        scored(opened, pool, queries, undamped(), tmp_path)

    said = str(refused.value)
    assert f"8 of 8 queries, first {queries.names[0]!r}" in said
    assert f"module {MLP!r}" in said
    assert '"more-damping" raises the damping' in said


@pytest.mark.usefixtures("dead")
def test_more_damping_scores_every_row_anew_and_says_so(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Ten and a hundred times nothing are nothing; a share of the mean eigenvalue is something."""
    spec = undamped(on_nonfinite="more-damping")

    store = scored(opened, pool, queries, spec, tmp_path)
    wanted = scored(opened, pool, queries, asked({"kind": "ekfac", "damping": 0.1}), tmp_path)

    assert [rung["damping"] for rung in store.about["rungs"]] == [
        "1e-59 absolute",
        "1e-58 absolute",
        "0.1 relative",
    ]
    assert np.array_equal(store.total, wanted.total)
    assert np.isfinite(store.total).all()
    assert store.about["settings"]["damping"] == 0.1


@pytest.mark.usefixtures("dead")
def test_a_resumed_store_keeps_the_damping_it_had_come_to(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places = undamped(on_nonfinite="more-damping"), Places(tmp_path, "t")
    state = stopped(opened, pool, queries, spec, tmp_path, monkeypatch)
    assert state["step"] == 3
    with pytest.raises(SpecError, match="needed more-damping; set scores"):
        scored(opened, pool, queries, undamped(), tmp_path)
    lines: list[str] = []

    score.score(opened, pool, queries, spec, "x", places, say=lines.append)

    assert lines == ["x: 16 of 24 rows were scored before"]


def test_an_estimator_without_damping_says_so(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_loss(monkeypatch, scorers_rows(pool)[0])

    with pytest.raises(SpecError, match="more-damping: grad_dot has no damping to raise"):
        scored(opened, pool, queries, asked("grad_dot", on_nonfinite="more-damping"), tmp_path)


@pytest.mark.usefixtures("dead")
def test_one_query_takes_the_directional_route(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    one = Queries(queries.batch.select(slice(0, 1)), queries.shown[:1], queries.names[:1], "one")
    strong = {"kind": "ekfac", "damping": 1.0}

    single = scored(opened, pool, one, asked(strong), tmp_path)
    many = scored(opened, pool, queries, asked(strong), tmp_path)

    assert single.about["settings"]["route"] == "directional"
    assert many.about["settings"]["route"] == "hooks"
    assert np.corrcoef(single.total[:, 0], many.total[:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("options", [{"chunk_rows": 1}, {"chunk_rows": 23}, {"chunk_rows": 24}])
def test_a_chunk_of_bad_rows_alone_is_masked_too(
    options: dict[str, int],
    opened: Any,
    pool: Pool,
    queries: Queries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first row and the last are bad: a chunk of one, and the row that is probed at the end."""
    rows = scorers_rows(pool)
    spoil_loss(monkeypatch, rows[0])
    spoil_loss(monkeypatch, rows[23])
    spec = asked("grad_dot", on_nonfinite="mask", modules=True, **options)
    if options["chunk_rows"] == 24:  # all is there but what it means
        monkeypatch.setattr(score_run, "about_of", None)
        with pytest.raises(TypeError):
            scored(opened, pool, queries, spec, tmp_path)
        from harness.attribution.score_about import about_of

        monkeypatch.setattr(score_run, "about_of", about_of)

    store = scored(opened, pool, queries, spec, tmp_path)

    assert store.masked_rows == [0, 23]
    assert store.about["settings"]["estimator"] == "grad_dot"
    assert not store.total[[0, 23]].any()
    assert store.total[1:23].any(1).all()


def test_where_no_row_has_a_number_there_are_no_scores(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_score(monkeypatch, 1e60)

    with pytest.raises(SpecError, match="none of 24 rows is finite; first, 8 of 8 scores"):
        scored(opened, pool, queries, asked("grad_dot", on_nonfinite="mask"), tmp_path)


@pytest.mark.parametrize("normalize", ["none", "cosine"])
def test_a_masked_query_has_no_score_on_itself(
    normalize: str, opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    cut = untold(queries, 2)
    spec = asked("grad_dot", on_nonfinite="mask", self_influence=True, normalize=normalize)

    store = scored(opened, pool, cut, spec, tmp_path)

    assert store.self_queries is not None
    assert np.flatnonzero(store.self_queries == 0).tolist() == [2]
    assert not store.total[:, 2].any()
    assert store.total[:, 3].all()


def test_queries_prepared_again_in_float32_are_on_record(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first score, and for whoever resumes; it is not reused by who did not allow it."""
    plain = GradDot.prepare

    def spoiled(self: GradDot, view: Any, fitted: Any, rows: Any) -> Any:
        if self.precision != "float32":
            raise FloatingPointError("a query gradient is not finite")
        return plain(self, view, fitted, rows)

    monkeypatch.setattr(GradDot, "prepare", spoiled)
    small = {"kind": "grad_dot", "precision": "bfloat16"}
    spec = asked(small, on_nonfinite="retry-float32")
    state = stopped(opened, pool, queries, spec, tmp_path, monkeypatch)
    assert state["float32"] == "a query gradient is not finite"
    with pytest.raises(SpecError, match="these scores needed retry-float32; set scores"):
        scored(opened, pool, queries, asked(small), tmp_path)
    monkeypatch.setattr(GradDot, "prepare", plain)  # were it asked again, bfloat16 would do

    store = scored(opened, pool, queries, spec, tmp_path)

    whole = scored(opened, pool, queries, asked("grad_dot"), tmp_path)
    assert np.array_equal(store.total, whole.total)
    (rung,) = store.about["rungs"]
    assert (rung["rung"], rung["queries"]) == ("retry-float32", "all")
    with pytest.raises(SpecError, match="these scores needed retry-float32; set scores"):
        scored(opened, pool, queries, asked(small), tmp_path)


def test_masked_queries_are_written_down_before_the_first_score(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = untold(queries, 2)
    spec = asked("grad_dot", on_nonfinite="mask")

    state = stopped(opened, pool, cut, spec, tmp_path, monkeypatch)

    assert list(state["masked_queries"]) == ["2"]
    with pytest.raises(SpecError, match="these scores needed mask"):
        scored(opened, pool, cut, asked("grad_dot"), tmp_path)
