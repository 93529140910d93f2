"""The guards between a covariance and its inverse: each failure provoked, each message named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import SpecError
from harness.influence.factor_files import FACTORS, load_factors, save_factors
from harness.influence.factor_health import (
    RUNGS,
    check_covariance,
    check_lambda,
    decompose,
    decomposed,
    eigenvalue_summary,
    fault,
)


def covariance(size: int = 8, rank: int = 8) -> Tensor:
    """Return a covariance of `rank` [size, size] float64."""
    rows = torch.randn(rank, size, generator=torch.Generator().manual_seed(0)).double()
    return rows.T @ rows / rank


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_entry_is_named_with_its_module_and_side(value: float) -> None:
    """eigh on a CPU would return all NaN, silently."""
    matrix = covariance()
    matrix[2, 3] = value

    with pytest.raises(FloatingPointError, match=r"inputs of module 'h\.0\.mlp': 1 of 64 entries"):
        check_covariance(matrix, "h.0.mlp", "inputs")


def test_a_lopsided_or_empty_covariance_is_named() -> None:
    """Neither is anything a sum of outer products can be."""
    lopsided = covariance()
    lopsided[0, 1] += 1
    with pytest.raises(FloatingPointError, match="'m': differs from its transpose"):
        check_covariance(lopsided, "m", "inputs")
    with pytest.raises(FloatingPointError, match=r"'m': its trace is 0\.0; the loss does not see"):
        check_covariance(torch.zeros(3, 3), "m", "output gradients")


def test_a_rank_deficient_covariance_decomposes_and_says_so() -> None:
    """That is a common case, not a failure: no ridge, no error, the rank on record."""
    check_covariance(covariance(8, 3), "m", "inputs")
    done = decompose(covariance(8, 3), "m", "inputs")
    summary = eigenvalue_summary(done.values, done.rung, done.ridge)

    assert (summary["rung"], summary["ridge"], summary["rank"]) == ("float64", 0.0, 3)


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_finds_the_same_decomposition(rung: str) -> None:
    """V diag(values) V^T is the matrix, up to the rung's precision and ridge."""
    matrix = covariance()
    done = decompose(matrix, "m", "inputs", start=rung)
    again = done.vectors @ done.values.diag() @ done.vectors.T

    assert RUNGS[done.rung] == rung
    tolerance = 1e-5 if rung in ("float32", "ridge 1e-6") else 1e-8
    torch.testing.assert_close(again, matrix, rtol=0, atol=tolerance * float(matrix.abs().max()))


def test_a_failing_eigh_climbs_the_ladder_and_the_rung_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First an exception, then NaN in silence, then a ridge that works."""
    real, calls = torch.linalg.eigh, []

    def failing(matrix: Tensor) -> Any:
        calls.append(matrix)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("ill-conditioned")
        values, vectors = real(matrix)
        return (values * float("nan"), vectors) if len(calls) == 2 else (values, vectors)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    found = decomposed({"A:m": covariance()})

    rung, ridge = found["A_rung:m"].tolist()
    assert RUNGS[int(rung)] == "ridge 1e-12"
    assert ridge == pytest.approx(1e-12 * float(covariance().trace()) / 8)


def test_where_every_rung_fails_the_error_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the module, and why each failed."""

    def failing(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    monkeypatch.setattr(torch.linalg, "svd", failing)
    monkeypatch.setattr("scipy.linalg.eigh", failing)

    with pytest.raises(FloatingPointError, match=r"module 'm'.*float64: did.*svd: did") as raised:
        decompose(covariance(), "m", "inputs")
    assert all(rung in str(raised.value) for rung in RUNGS[1:])


def test_a_given_decomposition_is_kept_unless_it_is_at_fault() -> None:
    """NaN, or vectors that are not orthogonal, send it to the ladder."""
    values, vectors = torch.linalg.eigh(covariance())
    good = {"A_val:m": values, "A_vec:m": vectors}
    bad = {"A_val:m": values, "A_vec:m": vectors + 0.1}

    assert fault(values, vectors) == ""
    assert "orthogonal" in fault(values, bad["A_vec:m"])
    assert "not finite" in fault(values * float("nan"), vectors)
    kept, mended = decomposed({"A:m": covariance()}, good), decomposed({"A:m": covariance()}, bad)
    assert RUNGS[int(kept["A_rung:m"][0])] == "float64"
    assert RUNGS[int(mended["A_rung:m"][0])] == "symmetrised"
    torch.testing.assert_close(mended["A_val:m"], values.float())


@pytest.mark.parametrize(
    ("change", "message"),
    [(float("nan"), "1 of 64 entries not finite"), (-1.0, "mean of squares is -1.0")],
)
def test_a_bad_lambda_is_named(change: float, message: str) -> None:
    """It is a mean of squares."""
    values = covariance().square()
    values[1, 1] = change
    with pytest.raises(FloatingPointError, match=f"lambda of module 'm': .*{message}"):
        check_lambda(values, "m")


def test_a_lambda_of_zeros_has_nothing_to_invert() -> None:
    """Relative damping would be 0 too."""
    with pytest.raises(FloatingPointError, match="all zero"):
        check_lambda(torch.zeros(2, 2), "m")


def test_factors_come_back_bit_for_bit_from_a_file_that_appeared_whole(tmp_path: Path) -> None:
    """Names, dtypes and values; nothing half-written stays behind; a cut file is refused."""
    state = decomposed({"A:h.0": covariance(), "G:h.0": covariance(4, 4)})
    path = save_factors(tmp_path / "fit", state, {"rows": 3})

    found = load_factors(tmp_path / "fit")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert sorted(p.name for p in path.parent.iterdir()) == [FACTORS, "health.json"]
    with pytest.raises(SpecError, match="no such file"):
        load_factors(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SpecError, match="damaged"):
        load_factors(tmp_path / "fit")
