"""Scoring a finished run: the engine's own numbers, once, resumed, and refused when stale."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.attribution import fit, score_job, score_room
from harness.attribution.alone import alone
from harness.attribution.desk import load_attribution
from harness.attribution.fit_spec import Factors
from harness.attribution.nonfinite import Decisions, UnsoundError, decide
from harness.attribution.places import Places
from harness.attribution.rows import Pool, Queries
from harness.attribution.score import open_scores, score
from harness.attribution.score_spec import Scoring
from harness.attribution.score_writer import ParquetWriter
from harness.attribution.scorers import needed_factors
from harness.attribution.spec import Attribution
from harness.attribution.store import ScoreStore
from harness.errors import SpecError
from harness.influence.along_queries import check_rows
from harness.influence.estimators import ESTIMATORS

ROOT = Path(__file__).parents[3]
HELD = ("along", "query")  # what prepared states call the queries' directions and gradients
SMALL: dict[str, Any] = {
    "directional": {"kind": "directional", "check_rows": 4},
    "jvp_landmark": {"kind": "jvp_landmark", "landmarks": 8, "layers": 1, "dims": 64},
    "hidden_landmark": {"kind": "hidden_landmark", "landmarks": 8, "layers": 1, "dims": 64},
    "influcoder": {"kind": "influcoder", "epochs": 1, "dims": 64},
}


def asked(estimators: Any, **options: Any) -> Attribution:
    """Return a spec with these estimators."""
    options = {"chunk_rows": 7, "fit_rows": 24, **options}
    return Attribution(name="t", run="r", scores=Scoring(estimators=estimators, **options))


def scored(
    opened: Any, pool: Pool, queries: Queries, spec: Attribution, label: str, out: Path
) -> ScoreStore:
    """Score, and open what was written."""
    lines: list[str] = []
    folder = score(opened, pool, queries, spec, label, Places(out, "t"), say=lines.append)
    return ScoreStore.open(folder)


def by_hand(opened: Any, pool: Pool, queries: Queries, estimator: Any) -> Any:
    """Return [N, Q] of all rows at once."""
    prepared = estimator.prepare(opened.view, {}, queries.batch)
    return estimator.score(opened.view, prepared, pool.batch(slice(None))).total.numpy()


@pytest.mark.parametrize("label", ["grad_dot", "grad_cos"])
def test_scores_are_the_engines_in_the_pools_order(
    label: str, opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    store = scored(opened, pool, queries, asked([label]), label, tmp_path)

    wanted = by_hand(opened, pool, queries, ESTIMATORS[label]())
    assert store.total.dtype == np.float32
    np.testing.assert_allclose(store.total, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())
    assert [(r.domain, r.row) for r in store.rows()] == list(pool.picks)
    assert store.rows()[3].text == pool.shown(3).text
    assert [q.name for q in store.queries()] == list(queries.names)
    assert store.about["sign"] == "positive: training on the row lowers the query's loss"
    assert store.about["settings"]["estimator"] == label
    assert store.modules is None
    assert store.self_rows is None


@pytest.mark.parametrize("label", list(SMALL))
def test_every_estimator_has_a_column_per_query(
    label: str, opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Those whose queries are a mean in a run too, and options they cannot follow are left out."""
    spec = asked({label: {"queries": "mean", **SMALL[label]}}, modules=True, rank=2)
    few, lines = pool.only(range(20)), list[str]()

    store = ScoreStore.open(
        score(opened, few, queries, spec, label, Places(tmp_path, "t"), say=lines.append)
    )

    assert store.total.shape == (20, len(queries))
    assert np.isfinite(store.total).all()
    assert store.total.std(0).min() > 0
    assert any(f"{label}: rank is left out" in line for line in lines)
    if label == "directional":
        wanted = by_hand(opened, few, queries, ESTIMATORS["grad_dot"](modules=("all",)))
        assert min(np.corrcoef(store.total[:, q], wanted[:, q])[0, 1] for q in range(8)) > 0.9


def test_parts_and_own_scores_are_kept(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    spec = asked(["grad_dot"], modules=True, tokens=True, self_influence=True, rows=20)
    store = scored(opened, pool, queries, spec, "grad_dot", tmp_path)

    size = np.abs(store.total).max()
    assert store.modules is not None
    assert store.tokens is not None
    assert store.modules.shape == (20, 8, len(store.module_names))
    assert store.tokens.shape == (20, 8, 24)
    for parts in (store.modules, store.tokens):
        np.testing.assert_allclose(parts.sum(-1), store.total, rtol=0, atol=1e-5 * size)
    rows = score_job.some_rows(pool, 20)
    own = by_hand(opened, rows, Queries(rows.batch(slice(None)), (), ("",) * 20, ""), grad_dot())
    assert store.self_rows is not None
    np.testing.assert_allclose(store.self_rows, own.diagonal(), rtol=1e-4)
    assert store.self_queries is not None
    assert store.self_queries.shape == (8,)
    assert list(rows.picks) == sorted(rows.picks)
    assert set(score_job.some_rows(pool, 10).picks) < set(rows.picks)


def grad_dot(**settings: Any) -> Any:
    return ESTIMATORS["grad_dot"](**settings)


def test_a_low_rank_is_measured_and_told(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    spec = asked(["grad_dot"], rank=2, rank_rows=30, whole_queries=3)
    lines: list[str] = []
    places = Places(tmp_path, "t")
    store = ScoreStore.open(
        score(opened, pool, queries, spec, "grad_dot", places, say=lines.append)
    )

    full = by_hand(opened, pool, queries, grad_dot())
    told = store.about["rank"]
    assert (told["rank"], told["rows"], told["queries"]) == (2, 30, 3)
    assert all(0.2 < value < 1 for value in told["spearman"])
    assert any(line.startswith("grad_dot: rank 2 against full rank on 30 rows") for line in lines)
    assert not np.allclose(store.total, full, rtol=1e-3)
    assert np.corrcoef(store.total.ravel(), full.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_normalised_scores_are_what_their_formulas_say(
    reduction: str, opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """The cosine is that of plain gradients when nothing preconditions them."""
    settings = {"kind": "grad_dot", "preconditioner": "none", "reduction": reduction}
    stores = {
        how: scored(opened, pool, queries, asked({"g": settings}, normalize=how), "g", tmp_path)
        for how in ("none", "per_token", "cosine", "self_influence")
    }
    plain, counts = stores["none"].total, np.array([r.tokens for r in stores["none"].rows()])
    mean = plain / counts[:, None] if reduction == "sum" else plain
    cosine = by_hand(opened, pool, queries, ESTIMATORS["grad_cos"](preconditioner="none"))
    itself = Queries(pool.batch(slice(None)), (), ("",) * len(pool), "")
    own = by_hand(opened, pool, itself, grad_dot(preconditioner="none")).diagonal()

    np.testing.assert_allclose(stores["per_token"].total, mean, rtol=1e-5)
    np.testing.assert_allclose(stores["cosine"].total, cosine, rtol=1e-3, atol=1e-5)
    wanted = mean / np.sqrt(own)[:, None]
    np.testing.assert_allclose(stores["self_influence"].total, wanted, rtol=1e-3, atol=1e-6)
    about = stores["cosine"].about
    assert about["normalize"] == "cosine"
    assert "sqrt" in about["formula"]
    assert len({store.folder for store in stores.values()}) == 4


def test_a_second_time_nothing_is_computed(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places = asked(["grad_cos"], rows=12), Places(tmp_path, "t")
    folder = score(opened, pool, queries, spec, "grad_cos", places, say=lambda _: None)
    monkeypatch.setattr(ESTIMATORS["grad_cos"], "prepare", None)
    lines: list[str] = []

    assert score(opened, pool, queries, spec, "grad_cos", places, say=lines.append) == folder
    assert lines == [f"grad_cos: scores found finished ({folder.name})"]
    assert open_scores(opened, pool, queries, spec, "grad_cos", places).folder == folder


def test_another_threshold_is_read_with_the_same_scores(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Whoever reads writes nothing: another reader may be at it, with a threshold of its own."""
    places = Places(tmp_path, "t")
    first = scored(opened, pool, queries, asked(["grad_cos"], rows=12), "grad_cos", tmp_path)
    before = (first.folder / "about.json").read_bytes()

    found = open_scores(
        opened, pool, queries, asked(["grad_cos"], rows=12, threshold=2.0), "grad_cos", places
    )

    assert (first.threshold, found.threshold) == (0.0, 2.0)
    assert found.folder == first.folder
    assert (first.folder / "about.json").read_bytes() == before


def test_two_labels_of_equal_settings_are_one_store_under_two_names(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    spec, places = asked({"a": "grad_cos", "b": "grad_cos"}, rows=12), Places(tmp_path, "t")
    score(opened, pool, queries, spec, "a", places, say=lambda _: None)

    a, b = (open_scores(opened, pool, queries, spec, label, places) for label in "ab")

    assert (a.label, b.label) == ("a", "b")
    assert a.folder == b.folder


def test_stale_scores_are_refused_and_say_what_changed(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places = asked(["grad_cos"], rows=12), Places(tmp_path, "t")
    with pytest.raises(SpecError, match="scores of 'grad_cos': are not there; run attribute score"):
        open_scores(opened, pool, queries, spec, "grad_cos", places)
    score(opened, pool, queries, spec, "grad_cos", places, say=lambda _: None)
    cases = [
        (replace(opened, model_id="0" * 16), pool, queries, spec, "weights"),
        (opened, pool.only(range(30)), queries, spec, "rows"),
        (opened, pool, replace(queries, id="other"), spec, "queries"),
        (opened, pool, queries, asked(["grad_cos"], rows=12, rank=2), "options"),
    ]
    other = asked({"grad_cos": {"kind": "grad_cos", "biases": False}}, rows=12)
    cases.append((opened, pool, queries, other, "estimator"))

    for *changed, what in cases:
        with pytest.raises(
            SpecError, match=f"are stale, {what} changed since; run attribute score"
        ):
            open_scores(*changed, "grad_cos", places)  # type: ignore[arg-type]
    monkeypatch.setattr(score_job, "code", lambda *_: "renewed")
    with pytest.raises(SpecError, match="are stale, code changed since"):
        open_scores(opened, pool, queries, spec, "grad_cos", places)


def test_scores_of_factors_that_were_fitted_otherwise_are_stale(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Fitted again, with a row left out: the same key, other factors."""
    factors = Factors(fitter="hooks", strategy="kfac", modules=(r"h\.1\.mlp",))
    spec = replace(asked({"x": "kfac"}, rows=8), factors=factors)
    places, few = Places(tmp_path, "t"), pool.only(range(12))
    folder = fit.fit(opened, few, factors, places, say=lambda _: None)
    sound = score(opened, few, queries, spec, "x", places, say=lambda _: None)
    assert ScoreStore.open(sound).about["identity"]["decisions"] is None
    shutil.rmtree(folder)
    error = UnsoundError("stage covariances: one is not finite", "covariances")
    folder.mkdir()
    decide(Decisions(), error, "mask", folder, False, lambda: [few.picks[3]])
    masking = replace(spec, factors=replace(factors, on_nonfinite="mask"))
    fit.fit(opened, few, masking.factors, places, say=lambda _: None)

    with pytest.raises(SpecError, match="are stale, decisions changed since; run attribute score"):
        open_scores(opened, few, queries, masking, "x", places)
    with pytest.raises(SpecError, match=r'set factors.on_nonfinite = "mask"'):
        score(opened, few, queries, spec, "x", places, say=lambda _: None)
    again = score(opened, few, queries, masking, "x", places, say=lambda _: None)
    told = ScoreStore.open(again).about["identity"]["decisions"]
    assert told["masked"] == [list(few.picks[3])]
    assert not np.array_equal(ScoreStore.open(again).total, ScoreStore.open(sound).total)


def test_room_is_for_gradients_and_what_becomes_of_them(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.influence import selection

    settings = {"kind": "grad_dot", "last_blocks": 1}
    engine = grad_dot(last_blocks=1)
    model = opened.view.model
    uses = selection.choose(model, engine.modules, engine.last_blocks, engine.biases)
    chosen = {name for use in uses for name in (use.weight, use.bias) if name}
    shapes = [p.shape for name, p in model.named_parameters() if name in chosen]
    whole = 4 * sum(shape.numel() for shape in shapes)
    short = 4 * sum(2 * sum(s) if len(s) == 2 else s.numel() for s in shapes)

    def check(left: int, **options: Any) -> None:
        monkeypatch.setattr(score_room, "memory", lambda device: left)
        spec = asked({"x": settings}, **options)
        job = score_job.plan(opened, pool, queries, spec, "x", Places(tmp_path, "t"))
        score_room.check_room(job)

    for needed, options in (
        (2 * 8 * whole, {}),
        (2 * 3 * whole + 2 * 8 * short, {"rank": 2, "whole_queries": 3}),
    ):
        check(needed, **options)
        with pytest.raises(SpecError, match=r"gradients of . queries for 'x' take"):
            check(needed - 1, **options)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"kind": "directional"}, r"ask for fewer queries, or set scores\.estimators\.x\.modules"),
        ({"kind": "directional", "modules": ["mlp"]}, r"scores\.estimators\.x\.modules"),
        ({"kind": "identity", "route": "directional"}, r'scores\.estimators\.x\.route = "hooks"'),
        ({"kind": "identity", "route": "kronfluence"}, r'scores\.estimators\.x\.route = "hooks"'),
    ],
)
def test_room_is_for_directions_too(
    settings: dict[str, Any],
    advice: str,
    opened: Any,
    pool: Pool,
    queries: Queries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are as large as the model for each query, and twice that while they are stacked."""
    spec = asked({"x": settings}, rank=2)  # which they cannot follow
    job = score_job.plan(opened, pool, queries, spec, "x", Places(tmp_path, "t"))
    state = job.chosen.estimator.prepare(opened.view, check_rows(pool.batch([0]), 1), queries.batch)
    held = sum(v.numel() for name, v in state.items() if name.partition(":")[0] in HELD)
    if not held:  # kronfluence holds them itself: as many as the other route
        other = replace(job.chosen.estimator, route="hooks")
        state = other.prepare(opened.view, {}, queries.batch)
        held = sum(v.numel() for name, v in state.items() if name.startswith("query:"))
    needed = 4 * 2 * held

    monkeypatch.setattr(score_room, "memory", lambda device: needed)
    score_room.check_room(job)
    monkeypatch.setattr(score_room, "memory", lambda device: needed - 1)
    with pytest.raises(SpecError, match=rf"gradients of 8 queries for 'x' take .*; .*{advice}"):
        score_room.check_room(job)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from harness.attribution import score_writer
    from harness.attribution.opened import open_run
    from harness.attribution.places import Places
    from harness.attribution.rows import Queries, show
    from harness.attribution.score import score
    from harness.attribution.score_spec import Scoring
    from harness.attribution.spec import Attribution

    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    opened = open_run(run)
    batch = opened.view.probes(8, fixed=True)
    names = tuple(f"probe-{int(row)}" for row in batch.rows)
    queries = Queries(batch, tuple(show(batch, opened.tokenizer)), names, "probe-rows")
    calls = 0
    plain = score_writer.NpyWriter.write
    def write(self, chunk, first, values):
        global calls
        calls += 1
        if calls == 4:
            for name, array in values.items():  # some of it reaches the disk, and no line does
                self.arrays[name][first : first + 2] = array[:2]
                self.arrays[name].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, chunk, first, values)
    score_writer.NpyWriter.write = write
    options = Scoring(estimators=["grad_dot"], chunk_rows=7, fit_rows=24)
    spec = Attribution(name="t", run="r", scores=options)
    score(opened, opened.pool(), queries, spec, "grad_dot", Places(out, "t"))
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_bits(
    tiny_run: Any, opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(tiny_run.folder)]
    killed = subprocess.run(
        [*code, str(tmp_path / "a")], cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    spec, lines = asked(["grad_dot"]), list[str]()
    with pytest.raises(SpecError, match="scores of 'grad_dot': are not finished"):
        open_scores(opened, pool, queries, spec, "grad_dot", Places(tmp_path / "a", "t"))

    places = Places(tmp_path / "a", "t")
    folder = score(opened, pool, queries, spec, "grad_dot", places, say=lines.append)
    whole = scored(opened, pool, queries, spec, "grad_dot", tmp_path / "b")

    assert f"grad_dot: 21 of {len(pool)} rows were scored before" in lines
    assert np.array_equal(ScoreStore.open(folder).total, whole.total)
    assert folder.name == whole.folder.name


def test_stopped_in_the_middle_a_parquet_store_goes_on_too(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, places, lines = asked(["grad_cos"], store="parquet"), Places(tmp_path, "t"), list[str]()
    plain = ParquetWriter.write

    def write(self: ParquetWriter, chunk: int, first: int, values: Any) -> None:
        if chunk == 3:
            raise KeyboardInterrupt
        plain(self, chunk, first, values)

    monkeypatch.setattr(ParquetWriter, "write", write)
    with pytest.raises(KeyboardInterrupt):
        score(opened, pool, queries, spec, "grad_cos", places, say=lines.append)
    monkeypatch.undo()

    folder = score(opened, pool, queries, spec, "grad_cos", places, say=lines.append)

    assert lines == [f"grad_cos: 21 of {len(pool)} rows were scored before"]
    other = scored(opened, pool, queries, asked(["grad_cos"]), "grad_cos", tmp_path)
    assert np.array_equal(ScoreStore.open(folder).total, other.total)


def test_two_processes_do_not_write_one_store(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    spec, places = asked(["grad_dot"], rows=8), Places(tmp_path, "t")
    folder = score_job.plan(opened, pool, queries, spec, "grad_dot", places).folder
    with (
        alone(folder, "scores into it"),
        pytest.raises(SpecError, match="another process scores into it"),
    ):
        score(opened, pool, queries, spec, "grad_dot", places, say=lambda _: None)


def test_what_cannot_be_done_is_said_before_anything_is_computed(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path, "t")

    def refused(spec: Attribution, label: str, said: str) -> None:
        with pytest.raises(SpecError, match=said) as error:
            score(opened, pool, queries, spec, label, places, say=lambda _: None)
        assert "\n" not in str(error.value)

    spec = asked({"a": {"kind": "grad_cos", "biase": True}, "b": "influcoder"}, normalize="cosine")
    refused(spec, "a", r"scores.estimators.a.*biase")
    refused(spec, "b", r"scores.normalize: cosine needs .* influcoder \(label 'b'\) has not")
    refused(spec, "c", "scores.estimators: 'c' is not there; there are a, b")
    fitted = asked({"x": {"kind": "ekfac", "modules": ["mlp"]}})
    refused(fitted, "x", r"scores.estimators.x.modules: belongs to what is fitted")
    refused(asked({"x": {"kind": "grad_dot", "modules": ["nope"]}}), "x", "'nope' matches nothing")
    monkeypatch.setattr(score_room, "memory", lambda device: 1000)
    refused(asked(["grad_dot"]), "grad_dot", r"gradients of 8 queries .* set scores.rank = 64")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ("prepare", ValueError("no such query")),
        ("score", ImportError("torn\n apart")),
        ("score", ValueError("no exact\n form")),
    ],
)
def test_what_the_engine_refuses_on_the_way_is_one_line(
    hook: str,
    error: Exception,
    opened: Any,
    pool: Pool,
    queries: Queries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ESTIMATORS["grad_cos"], hook, refuse)
    told = " ".join(str(error).split())
    with pytest.raises(SpecError, match=rf"^scores\.estimators\.grad_cos: {told}$"):
        scored(opened, pool, queries, asked(["grad_cos"], rows=8), "grad_cos", tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nothing"], "'nothing' is no estimator; take one of ekfac, kfac"),
        (["group"], "group scores domains, not rows; use grad_dot"),
        (["ekfac", "ekfac"], "'ekfac' stands there twice"),
        ({}, "at least 1"),
    ],
)
def test_a_wrong_name_is_refused_without_torch(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scoring(estimators=given)


def test_totals_alone_fit_in_parquet() -> None:
    with pytest.raises(ValueError, match="parquet keeps totals alone"):
        Scoring(store="parquet", tokens=True)


def test_scoring_leaves_the_model_as_it_was(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in opened.view.model.state_dict().items()}
    scored(opened, pool, queries, asked(["grad_dot"], rows=8), "grad_dot", tmp_path)

    for name, value in opened.view.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_ekfac_and_its_kin_score_with_the_factors_that_fit_has_left(
    opened: Any, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """kfac takes ekfac's, identity none; all that is missing, or of other settings, is refused."""
    names = ["ekfac", "kfac", "identity", "diagonal"]
    factors = Factors(fitter="hooks", data_partitions=2)
    spec, places = replace(asked(names), factors=factors), Places(tmp_path, "t")
    with pytest.raises(SpecError, match="no factors; run `steelyard attribute fit`"):
        score(opened, pool, queries, spec, "ekfac", places, say=lambda _: None)
    tables = needed_factors(spec)
    assert tables == [factors, replace(factors, strategy="diagonal")]
    fit.fit(opened, pool, factors, places, say=lambda _: None)
    rows, state = pool.batch(slice(None)), fit.open_factors(opened, pool, factors, places)

    for name in ("ekfac", "kfac"):
        store = ScoreStore.open(
            score(opened, pool, queries, spec, name, places, say=lambda _: None)
        )
        engine = replace(fit.estimator(opened, pool, factors, places), strategy=name)
        prepared = engine.prepare(opened.view, state, queries.batch)
        wanted = engine.score(opened.view, prepared, rows).total.numpy()
        np.testing.assert_allclose(store.total, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
        assert store.about["strategy"] == name
    flat = ScoreStore.open(
        score(opened, pool, queries, spec, "identity", places, say=lambda _: None)
    )
    plain = by_hand(opened, pool, queries, grad_dot(modules=("mlp",), preconditioner="none"))
    np.testing.assert_allclose(flat.total, plain, rtol=1e-3, atol=1e-5 * np.abs(plain).max())
    for wrong in ("diagonal", "ekfac"):
        other = replace(spec, factors=replace(factors, labels="empirical"))
        with pytest.raises(SpecError, match="no factors; those that are there"):
            score(opened, pool, queries, other, wrong, places, say=lambda _: None)
    assert open_scores(opened, pool, queries, spec, "ekfac", places).about["identity"]["factors"]


def test_a_length_on_the_command_line_wins_over_the_files_other_one(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "x"\nrun = "r"\n[training]\nepochs = 2.0\nvalidation_rows = 8\n')

    def training(*overrides: str) -> Any:
        return load_attribution(path, overrides, "p").training

    assert (training("--training.steps=3").steps, training("--training.steps=3").epochs) == (
        3,
        None,
    )
    assert training("--training.steps", "3").validation_rows == 8
    assert training("--training.epochs=1.5").epochs == 1.5
    assert training("--training.validation-rows=4").epochs == 2
    with pytest.raises(SpecError, match="set one of epochs and steps, not both"):
        training("--training.steps=3", "--training.epochs=1.0")


def test_a_spec_is_read_from_a_file_and_overridden(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "x"\nrun = "out/runs/1"\n[scores]\nrank = 64\n[scores.estimators]\n'
        'ekfac = "ekfac"\nlast = { kind = "grad_dot", last_blocks = 1 }\n'
    )

    spec = load_attribution(path, ["--scores.tokens=True", "--scores.on-nonfinite=mask"], "p")

    assert spec.scores.estimators["last"] == {"kind": "grad_dot", "last_blocks": 1}
    assert (spec.scores.rank, spec.scores.tokens) == (64, True)
    assert spec.scores.on_nonfinite == "mask"
    as_toml = load_attribution(path, ["--scores.tokens=true", "--scores.modules=false"], "p")
    assert (as_toml.scores.tokens, as_toml.scores.modules) == (True, False)
    with pytest.raises(SpecError, match=r"--scores.tokens"):
        load_attribution(path, ["--scores.tokens=yes"], "p")
    path.write_text('name = "x"\nrun = "r"\n[scores]\nestimators = ["grad_cos", "bm"]\n')
    with pytest.raises(SpecError, match=r"estimators.bm: 'bm' is no estimator"):
        load_attribution(path, [], "p")
