"""A staged fit: the engine's own factors, cut into parts, found again, and refused when stale."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from scipy import stats
from torch import Tensor

from harness.attribution import fit
from harness.attribution.alone import LOCK
from harness.attribution.fit_health import damping_of, health_of
from harness.attribution.fit_key import chosen
from harness.attribution.fit_spec import Factors
from harness.attribution.health_table import health_table
from harness.attribution.nonfinite import Decisions, UnsoundError
from harness.attribution.opened import Opened, weights_id
from harness.attribution.places import Places
from harness.attribution.progress import SILENT
from harness.attribution.rows import Pool, Queries
from harness.errors import SpecError
from harness.influence.ekfac import Ekfac
from harness.influence.selection import choose
from tests.bench.attribution import by_hand, by_pipeline

HOOKS = Factors(fitter="hooks")


def silence(_: str) -> None:
    """Say nothing."""


def fitted(opened: Opened, pool: Pool, factors: Factors, folder: Path) -> dict[str, Tensor]:
    """Fit, and return the factors."""
    places = Places(folder, "x")
    fit.fit(opened, pool, factors, places, say=silence)
    return fit.open_factors(opened, pool, factors, places)


def scores(estimator: Ekfac, opened: Opened, pool: Pool, queries: Queries, state: Any) -> Tensor:
    """Return [N, Q]."""
    prepared = estimator.prepare(opened.view, state, queries.batch)
    return estimator.score(opened.view, prepared, pool.batch(slice(0, 12))).total


@pytest.mark.parametrize("fitter", ["hooks", "kronfluence"])
@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal", "identity"])
def test_parts_add_up_to_what_the_engine_fits_whole(
    strategy: Any, fitter: Any, opened: Opened, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Scores with both, and the same names; rounding of float32 sums apart."""
    factors = Factors(strategy=strategy, fitter=fitter, data_partitions=3, module_partitions=2)

    state = fitted(opened, pool, factors, tmp_path)

    estimator = fit.estimator(opened, pool, factors, Places(tmp_path, "x"))
    whole = estimator.fit(opened.view, pool.batch(slice(None)))
    assert state.keys() == whole.keys()
    assert torch.equal(state["fitted"], whole["fitted"])
    found, wanted = (scores(estimator, opened, pool, queries, s) for s in (state, whole))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert float(wanted.abs().max()) > 0


def test_it_is_found_at_once_and_the_cut_is_no_part_of_it(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Other partitions, rows per pass or damping: the same folder; nothing half-made is left."""
    told: list[str] = []
    places = Places(tmp_path, "x")
    folder = fit.fit(opened, pool, HOOKS, places, say=silence)
    other = replace(HOOKS, data_partitions=1, module_partitions=4, batch_rows=3, damping=2.0)

    spent = opened.view.spent
    assert fit.fit(opened, pool, other, places, SILENT, told.append) == folder

    assert "found" in told[0]
    assert opened.view.spent == spent
    left = {path.name.rstrip("0123456789").split("-")[0] for path in folder.iterdir()}
    assert left == {"about.json", "eigen", "health.json", "lambda", "preflight.json"} | {
        "rows.safetensors",
        LOCK,
    }
    assert fit.estimator(opened, pool, other, places).damping == 2.0


def test_health_says_what_was_seen(opened: Opened, pool: Pool, tmp_path: Path) -> None:
    folder = fit.fit(opened, pool, HOOKS, Places(tmp_path, "x"), say=silence)

    health = json.loads((folder / "health.json").read_text())

    looked = health["preflight"]
    assert looked["rows"] == health["rows"] == len(pool)
    assert looked["loss_min"] <= looked["loss_mean"] <= looked["loss_max"]
    assert looked["targets_per_row"] >= 1
    assert len(health["modules"]) == 4
    for module in health["modules"].values():
        assert module["inputs"]["rung"] == module["gradients"]["rung"] == "float64"
        assert module["inputs"]["rank"] <= module["inputs"]["size"]
        assert 0 <= module["spectrum"]["damped"] <= 1
    assert health["decisions"] == []


def test_fewer_rows_are_a_keyed_choice_of_the_pool(opened: Opened, pool: Pool) -> None:
    few, more = (chosen(opened, pool, replace(HOOKS, rows=n)) for n in (10, 20))

    assert len(few) == 10
    assert set(few) < set(more)
    assert (np.diff(few) > 0).all()
    assert list(few) != list(range(10))
    with pytest.raises(SpecError, match=rf"factors\.rows: 500, but the pool has {len(pool)} rows"):
        chosen(opened, pool, replace(HOOKS, rows=500))


def moved(opened: Opened) -> Opened:
    """Return the run with one weight changed."""
    from copy import deepcopy

    model = deepcopy(opened.view.model)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    view = replace(opened.view, model=model)
    return replace(opened, view=view, model_id=weights_id(model))


def test_stale_factors_are_refused_by_what_has_changed(
    opened: Opened, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path, "x")
    with pytest.raises(SpecError, match="no factors; run `steelyard attribute fit`"):
        fit.open_factors(opened, pool, HOOKS, places)
    fit.fit(opened, pool, HOOKS, places, say=silence)
    other = moved(opened)

    changed = rf"the model's weights were {opened.model_id} and are {other.model_id}; run"
    with pytest.raises(SpecError, match=changed):
        fit.open_factors(other, pool, HOOKS, places)
    fewer = rf"are there: the rows were \w+ and are \w+ \({len(pool)} and 20 rows\); run"
    with pytest.raises(SpecError, match=f"no factors; those that {fewer}"):
        fit.open_factors(opened, pool.only(range(20)), HOOKS, places)
    turned = r"\(as many, but others: "
    with pytest.raises(SpecError, match=turned):
        fit.open_factors(opened, pool.only(range(len(pool))[::-1]), HOOKS, places)
    with pytest.raises(SpecError, match=r"factors\.labels was sampled and is empirical"):
        fit.open_factors(opened, pool, replace(HOOKS, labels="empirical"), places)
    assert fit.key(other, pool, HOOKS) != fit.key(opened, pool, HOOKS)
    monkeypatch.setattr("harness.attribution.fit_key.code", lambda *_: "renewed")
    with pytest.raises(SpecError, match=r"are there: the engine was .* and is .*renewed"):
        fit.open_factors(opened, pool, HOOKS, places)


def test_a_folder_that_holds_something_else_is_stale(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """A copied folder, or an engine that was renewed under the same name."""
    places = Places(tmp_path, "x")
    folder = fit.fit(opened, pool, HOOKS, places, say=silence)
    about = json.loads((folder / "about.json").read_text())
    about["parts"]["engine"]["torch"] = "1.0"
    (folder / "about.json").write_text(json.dumps(about))

    with pytest.raises(SpecError, match=r"stale: the engine was .*'1\.0'.* and is"):
        fit.open_factors(opened, pool, HOOKS, places)


@pytest.mark.parametrize("modules", ["mlp", "linear", r"h\.1\.mlp\.c_fc"])
def test_modules_are_chosen_by_name(
    modules: str, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    few = pool.only(range(8))
    state = fitted(opened, few, replace(HOOKS, modules=(modules,)), tmp_path)

    names = {name.removeprefix("lambda:") for name in state if name.startswith("lambda:")}
    assert len(names) == {"mlp": 4, "linear": 8}.get(modules, 1)
    with pytest.raises(SpecError, match=r"factors\.modules: 'gate' matches nothing"):
        fitted(opened, few, replace(HOOKS, modules=("gate",)), tmp_path)


def test_the_trace_ridge_is_on_the_covariances_and_leaves_lambda(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Eigenvalues rise by the same share of the trace; what ekfac inverts is measured after."""
    few = pool.only(range(12))
    plain, ridged = (
        fitted(opened, few, replace(HOOKS, trace_ridge=ridge), tmp_path) for ridge in (0.0, 0.2)
    )

    for name in (name for name in plain if name.startswith(("A_val", "G_val"))):
        wanted = plain[name].double() + 0.2 * plain[name].double().sum()
        torch.testing.assert_close(ridged[name].double(), wanted, rtol=1e-4, atol=0)
    for name in (name for name in plain if name.startswith("lambda")):
        total = plain[name].sum()
        torch.testing.assert_close(ridged[name].sum(), total, rtol=1e-3, atol=0)


def test_rows_reach_kronfluence_by_other_processes(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    few = pool.only(range(8))
    one = Factors(strategy="diagonal", fitter="kronfluence", data_partitions=1)

    found = fitted(opened, few, replace(one, workers=1), tmp_path)

    wanted = fitted(opened, few, one, tmp_path / "other")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"precision": "float16"}, r"precision: float16 overflows .* use \"bfloat16\""),
        ({"workers": 2, "fitter": "hooks"}, "workers: hooks read rows from mapped memory"),
        ({"trace_ridge": 0.1, "strategy": "diagonal"}, "trace_ridge: diagonal has no covariance"),
        ({"data_partitions": 0}, "greater than 0"),
        ({"on_nonfinite": "clip"}, "'error', 'retry-float32', 'more-damping' or 'mask'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Factors(**settings)


@pytest.mark.parametrize("strategy", ["ekfac", "diagonal", "identity"])
def test_the_health_is_a_table_with_what_was_done(
    strategy: Any, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    few = pool.only(range(8))
    factors = replace(HOOKS, strategy=strategy)
    folder = fit.fit(opened, few, factors, Places(tmp_path, "x"), say=silence)
    health = json.loads((folder / "health.json").read_text())
    done = {"action": "mask", "stage": "lambda", "what": "left out row 3", "because": "NaN"}
    health |= {"decisions": [done]}
    told = io.StringIO()

    Console(file=told, width=160).print(health_table(health, folder, 160))

    text = told.getvalue()
    assert "mask: left out row 3, because NaN" in text
    assert text.count("mlp.c_") == (0 if strategy == "identity" else 4)
    assert ("module of transformer.h. (" in text) is (strategy != "identity")
    assert ("float64" in text) is (strategy == "ekfac")


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
def test_health_at_another_damping_is_what_a_fit_with_it_would_write(
    strategy: Any, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Raised where the fit had to raise it, as scores are."""
    few, factors = pool.only(range(8)), replace(HOOKS, strategy=strategy)
    other = replace(factors, damping=3e-4, damping_unit="absolute")
    folder = fit.fit(opened, few, factors, Places(tmp_path, "x"), say=silence)
    wanted = fit.fit(opened, few, other, Places(tmp_path, "y"), say=silence)

    assert health_of(folder, factors) == json.loads((folder / "health.json").read_text())
    assert health_of(folder, other) == json.loads((wanted / "health.json").read_text())
    Decisions(damping=10.0).save(folder, "more-damping", UnsoundError("x", "inverse"), "")
    assert damping_of(folder, other) == (10 * 3e-4, "absolute")


@pytest.mark.parametrize("fitter", ["hooks", "kronfluence"])
def test_scores_are_those_of_kronfluence_driven_by_hand(
    fitter: Any, opened: Opened, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Fit and score, on padded rows with prompts; tests/bench/attribution.py times the same."""
    names = [use.name for use in choose(opened.view.model, ("mlp",))]
    rows = pool.batch(slice(None))
    wanted = by_hand(opened.view, names, rows, rows, queries.batch, tmp_path / "hand")

    found = by_pipeline(opened, pool, queries.batch, fitter, tmp_path / "ours")

    assert stats.spearmanr(found.flatten(), wanted.flatten())[0] > 0.9999
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_without_kronfluence_the_fix_is_named(
    opened: Opened, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(SpecError, match=r"kronfluence is not installed; pip .*fitter = \"hooks\""):
        fit.fit(opened, pool, Factors(fitter="kronfluence"), Places(tmp_path, "x"), say=silence)
    fit.fit(opened, pool.only(range(8)), HOOKS, Places(tmp_path, "x"), say=silence)
