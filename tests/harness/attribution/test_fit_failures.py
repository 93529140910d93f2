"""What breaks a fit, broken on purpose: a named message, or a way out that is recorded.

Seed 002 met NaN factors, float16, a row without a target and matrices that would not decompose, and
answered all of them with a fifth of the trace on the diagonal. Each has a cause of its own here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import Batch
from harness.attribution import fit, fit_stages
from harness.attribution.fit_spec import Factors
from harness.attribution.opened import Opened
from harness.attribution.places import Places
from harness.attribution.rows import Pool, Queries
from harness.errors import SpecError
from harness.influence.factor_health import RUNGS
from tests.harness.attribution.test_fit import HOOKS, scores, silence

BAD = 20  # the row of the pool that is made bad
FC, PROJ = "transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"
ACT = "transformer.h.0.mlp.act"  # what the projection reads
FITTERS = pytest.mark.parametrize("fitter", ["hooks", "kronfluence"])


def health(folder: Path) -> Any:
    """Return what a fit has written about itself."""
    return json.loads((folder / "health.json").read_text())


def touched(
    opened: Opened, pool: Pool, name: str, change: Callable[[Tensor], Tensor], seen: bool = True
) -> Opened:
    """Return the run with `change(output)` of a module in the bad row.

    Unless it is `seen`, the row's output of the whole MLP is 0: its loss knows nothing of it.
    """
    model: Any = deepcopy(opened.view.model)
    row, is_bad = pool.batch([BAD]).inputs[0], {}

    def remember(_: Any, args: Any, kwargs: Any) -> None:
        is_bad["now"] = (kwargs["input_ids"] == row).all(1)[:, None, None]

    def only_there(value: Tensor, other: Tensor) -> Tensor:
        return torch.where(is_bad["now"], other, value)

    model.register_forward_pre_hook(remember, with_kwargs=True)
    model.get_submodule(name).register_forward_hook(lambda _, __, x: only_there(x, change(x)))
    if not seen:
        mlp = model.get_submodule("transformer.h.0.mlp")
        mlp.register_forward_hook(lambda _, __, x: only_there(x, torch.zeros_like(x)))
    return replace(opened, view=replace(opened.view, model=model))


@FITTERS
def test_a_loss_that_is_not_finite_names_stage_batch_row_and_module(
    fitter: Any, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Behind the few rows of the preflight; masked, the fit is that of the other rows."""
    factors = Factors(fitter=fitter, batch_rows=2, data_partitions=4)
    places = Places(tmp_path, "x")
    domain, row = pool.picks[BAD]
    bad = touched(opened, pool, ACT, lambda x: torch.full_like(x, math.nan))
    named = rf"stage covariances, data partition 2 of 4: influence of row {row} of domain "
    named += rf"'{domain}' .* in the loss.*batch \d.*first in the output of module {ACT}; on_non"
    with pytest.raises(FloatingPointError, match=named):
        fit.fit(bad, pool, factors, places, say=silence)

    masking, told = replace(factors, on_nonfinite="mask"), []
    folder = fit.fit(bad, pool, masking, places, say=told.append)

    assert f"mask: left out row {row} of 'qa'" in told[-1]
    found = fit.open_factors(bad, pool, masking, places)
    with pytest.raises(SpecError, match="needed mask at stage covariances"):
        fit.fit(bad, pool, factors, places, say=silence)
    with pytest.raises(SpecError, match=r'needed mask .* set factors.on_nonfinite = "mask"'):
        fit.open_factors(bad, pool, factors, places)
    assert health(folder)["masked_rows"] == [[domain, row]]
    assert found["fitted"].tolist() == [len(pool) - 1, 1]
    others = pool.only([i for i in range(len(pool)) if i != BAD])
    fit.fit(opened, others, factors, places, say=silence)
    wanted = fit.open_factors(opened, others, factors, places)
    for name in (name for name in wanted if name.startswith(("A_val", "G_val"))):
        assert torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)


@FITTERS
def test_a_covariance_that_overflows_is_traced_to_its_row(
    fitter: Any, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """The loss is finite and so is the activation; its square is not."""
    factors = Factors(fitter=fitter, batch_rows=4)
    domain, row = pool.picks[BAD]
    bad = touched(opened, pool, ACT, lambda x: x + 1e25, False)
    named = rf"row {row} of domain '{domain}'.*squared inputs of module '{PROJ}', stage cov"
    with pytest.raises(FloatingPointError, match=named):
        fit.fit(bad, pool, factors, Places(tmp_path, "x"), say=silence)
    for choice, why in (
        ("retry-float32", "it is in float32 already"),
        ("more-damping", "damping cannot mend it"),
    ):
        choosing = replace(factors, on_nonfinite=choice)
        with pytest.raises(FloatingPointError, match=why):
            fit.fit(bad, pool, choosing, Places(tmp_path, "x"), say=silence)
    masking = replace(factors, on_nonfinite="mask")
    folder = fit.fit(bad, pool, masking, Places(tmp_path, "x"), say=silence)
    assert health(folder)["masked_rows"] == [[domain, row]]


@FITTERS
def test_float16_sums_that_overflow_are_summed_again_in_float32(
    fitter: Any, opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    places = Places(tmp_path, "x")
    small = Factors(fitter=fitter, covariance_dtype="float16")
    bad = touched(opened, pool, ACT, lambda x: x + 300.0, False)
    told = rf"module '{PROJ}': \d+ of \d+ entries not finite.*retry-float32.* fits the stage"
    with pytest.raises(FloatingPointError, match=told):
        fit.fit(bad, pool, small, places, say=silence)
    with pytest.raises(FloatingPointError, match="'mask': no row of its own is to blame"):
        fit.fit(bad, pool, replace(small, on_nonfinite="mask"), places, say=silence)
    again = replace(small, on_nonfinite="retry-float32")
    folder = fit.fit(bad, pool, again, places, say=silence)
    found = fit.open_factors(bad, pool, again, places)
    plain = Factors(fitter=fitter)
    fit.fit(bad, pool, plain, places, say=silence)
    wanted = fit.open_factors(bad, pool, plain, places)

    assert health(folder)["covariance_dtype"] == "float32"
    (decision,) = health(folder)["decisions"]
    assert decision["action"] == "retry-float32"
    assert decision["stage"] == "covariances"
    assert "entries not finite" in decision["because"]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@dataclass(frozen=True)
class Muted:
    """Rows of which one has no target that counts."""

    whole: Any
    silent: int
    tokens: int

    def batch(self, picks: list[tuple[str, int]], names: tuple[str, ...], device: str) -> Batch:
        """Return the rows."""
        batch = self.whole.batch(picks, names, device)
        return replace(batch, mask=batch.mask & (batch.rows != self.silent)[:, None])


def test_a_row_without_a_target_is_named_before_anything_is_fitted(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Masked, it is left out, and counted."""
    row, places = pool.picks[BAD][1], Places(tmp_path, "x")
    muted = replace(pool, shelf=Muted(pool.shelf, row, 24))  # type: ignore[arg-type]

    named = rf"stage preflight: row {row} of domain 'qa' has no target that counts"
    with pytest.raises(SpecError, match=named):
        fit.fit(opened, muted, HOOKS, places, say=silence)
    masking = replace(HOOKS, on_nonfinite="mask")
    folder = fit.fit(opened, muted, masking, places, say=silence)

    assert health(folder)["masked_rows"] == [["qa", row]]
    assert health(folder)["rows"] == len(pool) - 1


def test_covariances_without_full_rank_decompose_and_score(
    opened: Opened, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """Two rows have fewer tokens than the layers are wide."""
    few, places = pool.only([0, 1]), Places(tmp_path, "x")

    folder = fit.fit(opened, few, HOOKS, places, say=silence)

    inputs = health(folder)["modules"]["transformer.h.0.mlp.c_proj"]["inputs"]
    assert inputs["rank"] < inputs["size"]
    assert inputs["rung"] == "float64"
    estimator = fit.estimator(opened, few, HOOKS, places)
    state = fit.open_factors(opened, few, HOOKS, places)
    assert scores(estimator, opened, pool, queries, state).isfinite().all()


def test_what_does_not_decompose_climbs_a_ladder_that_is_recorded(
    opened: Opened, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """eigh fails until there is a ridge."""
    real, given = torch.linalg.eigh, []

    def failing(matrix: Tensor) -> Any:
        given.append(matrix)
        if len(given) <= 2:
            raise torch.linalg.LinAlgError("The algorithm failed to converge")
        return real(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    folder = fit.fit(opened, pool.only(range(8)), HOOKS, Places(tmp_path, "x"), say=silence)

    first = health(folder)["modules"][FC]["inputs"]
    assert first["rung"] == "ridge 1e-12"
    assert first["ridge"] > 0


def test_where_the_ladder_ends_more_damping_goes_on(
    opened: Opened, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ridge is as small as will do, on that matrix alone, and recorded."""
    real, seen = fit_stages.decomposed, {}

    def stubborn(covariances: Any) -> Any:
        ((name, matrix),) = covariances.items()
        if name == f"A:{FC}":
            least = seen.setdefault("least", float(matrix.trace()))
            if float(matrix.trace()) < 1.005 * least:
                raise FloatingPointError(f"module {FC!r}: every rung failed")
        return real(covariances)

    monkeypatch.setattr(fit_stages, "decomposed", stubborn)
    few, places = pool.only(range(8)), Places(tmp_path, "x")
    with pytest.raises(FloatingPointError, match='every rung failed; on_nonfinite = "more-damping'):
        fit.fit(opened, few, HOOKS, places, say=silence)
    folder = fit.fit(opened, few, replace(HOOKS, on_nonfinite="more-damping"), places, say=silence)

    found = health(folder)
    told = [decision["what"] for decision in found["decisions"]]
    assert told == [f"a ridge of {s} of the mean eigenvalue on A:{FC}" for s in ("0.0001", "0.01")]
    inputs = found["modules"][FC]["inputs"]
    assert inputs["ridge"] == pytest.approx(0.01 * seen["least"] / inputs["size"], rel=1e-6)
    assert inputs["rung"] in RUNGS
    assert found["modules"][FC]["gradients"]["ridge"] == 0


def test_an_inverse_without_a_number_is_refused_or_damped(
    opened: Opened, pool: Pool, queries: Queries, tmp_path: Path
) -> None:
    """1 / (0 + 1e-42) is more than float32 holds: scores would be infinite."""
    few, places = pool.only([0, 1]), Places(tmp_path, "x")
    tiny = Factors(fitter="hooks", strategy="kfac", damping=1e-42, damping_unit="absolute")

    with pytest.raises(FloatingPointError, match=r"inverse of module .* overflows float32; on_non"):
        fit.fit(opened, few, tiny, places, say=silence)
    raised = replace(tiny, on_nonfinite="more-damping")
    folder = fit.fit(opened, few, raised, places, say=silence)

    used = fit.estimator(opened, few, raised, places).damping
    assert used == pytest.approx(1e-38)
    assert health(folder)["damping"] == used
    assert len(health(folder)["decisions"]) == 4
    with pytest.raises(SpecError, match="needed more-damping at stage inverse"):
        fit.fit(opened, few, tiny, places, say=silence)


def test_a_module_that_the_loss_does_not_see_is_named(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    model: Any = deepcopy(opened.view.model)
    torch.nn.init.zeros_(model.get_submodule("transformer.h.0.mlp.c_proj").weight)
    dead = replace(opened, view=replace(opened.view, model=model))
    for strategy, named in (
        ("ekfac", rf"output gradients of module '{re.escape(FC)}': its trace is 0.0"),
        ("diagonal", rf"lambda of module '{re.escape(FC)}': all zero"),
    ):
        factors = replace(HOOKS, strategy=strategy)
        with pytest.raises(FloatingPointError, match=named):
            fit.fit(dead, pool.only(range(8)), factors, Places(tmp_path, "x"), say=silence)
