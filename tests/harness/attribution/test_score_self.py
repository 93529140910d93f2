"""Scores of rows on themselves, beside the engine's scores of each row prepared as a query."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from harness.attribution.rows import Queries
from harness.attribution.score_passes import Scorer
from harness.attribution.score_self import self_scores
from harness.attribution.store import SELF
from harness.influence.ekfac import Ekfac
from harness.influence.gradients import GradDot
from tests.tiny import of_llama

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View
    from harness.attribution.rows import Pool


@pytest.fixture(params=["gpt2", "llama"])
def view(request: pytest.FixtureRequest, opened: Any) -> Any:
    """Return the run's view, or the same of a random LLaMA, which has no moments."""
    return opened.view if request.param == "gpt2" else of_llama(opened.view)


@pytest.fixture
def rows(pool: Pool) -> Batch:
    """Return 11 rows of other lengths, one without a counted target."""
    few = pool.batch(slice(0, 11))
    mask = few.mask.clone()
    mask[4] = False
    return replace(few, mask=mask)


def by_hand(view: View, estimator: Any, fitted: State, rows: Batch) -> Tensor:
    """Return the diagonal of the scores of all rows for all rows."""
    prepared = estimator.prepare(view, fitted, rows)
    found: Tensor = estimator.score(view, prepared, rows).total.diagonal()
    return found


def agree(found: Tensor, wanted: Tensor) -> None:
    """Assert equality up to float32's rounding of sums, and that something is there."""
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
    assert (found > 0).sum() == 10
    assert found[4] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("view", "preconditioner"),
    [("gpt2", "adam"), ("gpt2", "none"), ("llama", "none")],
    indirect=["view"],
)
@pytest.mark.parametrize("modules", [("linear",), ("all",)])
def test_dots_are_those_of_each_row_as_a_query(
    modules: tuple[str, ...], preconditioner: Any, reduction: Any, view: Any, rows: Batch
) -> None:
    """With embeddings, one of them tied to the head."""
    settings: dict[str, Any] = {"modules": modules, "preconditioner": preconditioner}
    estimator = GradDot(**settings, reduction=reduction, chunk_rows=4)

    agree(self_scores(view, estimator, {}, rows), by_hand(view, estimator, {}, rows))


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal", "identity"])
@pytest.mark.parametrize("biases", [True, False])
def test_curved_scores_are_those_of_each_row_as_a_query(
    biases: bool, strategy: Any, view: Any, rows: Batch, pool: Pool
) -> None:
    settings: dict[str, Any] = {"strategy": strategy, "biases": biases, "fitter": "hooks"}
    estimator = Ekfac(**settings, labels="empirical", route="hooks", reduction="sum", chunk_rows=4)
    fitted = estimator.fit(view, pool.batch(slice(0, 40)))

    agree(self_scores(view, estimator, fitted, rows), by_hand(view, estimator, fitted, rows))


def test_no_row_is_prepared_as_a_query(
    opened: Any, queries: Queries, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, asked = GradDot(), []
    scorer = Scorer("x", opened.view, estimator, {}, queries, self_influence=True)
    scorer.prepare()
    plain = GradDot.prepare

    def prepare(self: GradDot, *what: Any) -> Any:
        asked.append(what)
        return plain(self, *what)

    monkeypatch.setattr(GradDot, "prepare", prepare)
    block = scorer.block(pool.batch(slice(0, 9)))

    assert block.arrays[SELF].shape == (9,)
    assert asked == []


def test_what_is_not_finite_names_its_row_and_module(
    opened: Any, rows: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.attribution import score_self

    def spoiled(*what: Any) -> tuple[Tensor, float]:
        found, flops = plain(*what)
        return found * torch.tensor([1.0, np.inf, 1.0, 1.0])[: len(found), None, None], flops

    plain = score_self.materialised
    monkeypatch.setattr(score_self, "materialised", spoiled)

    with pytest.raises(FloatingPointError, match=rf"row {int(rows.rows[1])} of .* in .*c_proj"):
        self_scores(opened.view, GradDot(chunk_rows=4), {}, rows)


def test_the_pass_and_its_products_are_billed_once(opened: Any, rows: Batch) -> None:
    billed: list[tuple[float, int]] = []

    class Billing:
        def __getattr__(self, name: str) -> Any:
            return getattr(opened.view, name)

        def bill(self, flops: float, tokens: int = 0) -> None:
            billed.append((flops, tokens))

    view: Any = Billing()
    self_scores(view, GradDot(chunk_rows=4), {}, rows, network=1e6)

    assert [tokens for _, tokens in billed] == [4 * 24, 4 * 24, 3 * 24]
    assert billed[0][0] == billed[1][0] > 4e6
    assert billed[2][0] == pytest.approx(0.75 * billed[0][0])
