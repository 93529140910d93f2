"""Query gradients of low rank: the best there is, whatever way it is multiplied or joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.influence import factors, low_rank
from harness.influence.ekfac import Ekfac
from harness.influence.factors import Factors, products
from harness.influence.gradients import GradCos, GradDot
from harness.view import RunView
from tests.harness.influence.test_gradients import batch_cut

PLAIN: dict[str, Any] = {"preconditioner": "none"}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("estimator", [GradDot(), GradCos(), GradDot(modules=("all",), **PLAIN)])
def test_a_rank_that_saves_nothing_changes_nothing(estimator: Any, view: RunView) -> None:
    """And one that cuts off the last of 32 singular values next to nothing."""
    rows, query = view.candidates(3), view.probes(1)
    whole = estimator.prepare(view, {}, query)
    nearly = low_rank.low_rank(whole, 31)

    one, other = (estimator.score(view, p, rows).total for p in (whole, nearly))

    torch.testing.assert_close(one, other, rtol=0, atol=0.02 * float(one.abs().max()))
    assert torch.equal(low_rank.low_rank(whole, 10**6)["norms"], whole["norms"])
    big = low_rank.low_rank(whole, 10**6)
    assert all(torch.equal(big[name], value) for name, value in whole.items())


def test_a_low_rank_is_the_best_there_is() -> None:
    """Exact by the Eckart-Young theorem, and nearly so by subspace iteration."""
    matrix = random(1, 40, 60) @ torch.diag(0.8 ** torch.arange(60.0))
    values = torch.linalg.svdvals(matrix[0])

    for rank, slack in ((12, 1.0001), (5, 1.02)):  # the first exactly, the second iterated
        left, right = low_rank.factored(matrix, rank, "m")
        assert left.shape == (1, rank, 40)
        assert right.shape == (1, rank, 60)
        lost = (matrix - left.mT @ right).norm()
        assert float(lost) <= slack * float(values[rank:].norm())


def test_scores_at_a_rank_are_those_of_the_approximation(view: RunView) -> None:
    """The factors' products, whichever way they are taken, are the dots with left^T right."""
    rows, query = view.candidates(2), view.probes(1)
    for estimator in (GradDot(**PLAIN), GradCos()):
        whole = estimator.prepare(view, {}, query)
        short = low_rank.low_rank(whole, 3)
        again = {**whole}
        for name in [n for n in short if n.startswith("left:")]:
            parameter = name.removeprefix("left:")
            again.pop(name, None)
            again.pop(f"right:{parameter}", None)
            again[f"query:{parameter}"] = short[name].mT @ short[f"right:{parameter}"]
        assert sum(n.startswith("left:") for n in short) == 8  # every matrix of two blocks

        one, other = (estimator.score(view, p, rows).total for p in (short, again))

        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(one.abs().max()))


@pytest.mark.parametrize("num_rows", [1, 200])
def test_few_and_many_rows_give_the_same_dots(
    num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of vectors, or queries made whole in blocks: which is taken depends on the cost."""
    monkeypatch.setattr(factors, "UNFOLDED", 2 * 12 * 20)
    use = Factors(random(num_rows, 30, 12), random(num_rows, 30, 20, seed=1), 12)
    query = Factors(random(5, 4, 12, seed=2), random(5, 4, 20, seed=3), 12)
    wanted = torch.einsum("btl,btr,qsl,qsr->bq", use.left, use.right, query.left, query.right)

    found = products([use], query, None, squares=True)

    torch.testing.assert_close(found.dots, wanted, rtol=1e-4, atol=1e-3)
    squares = torch.bmm(use.left.mT, use.right).flatten(1).square().sum(1)
    assert found.squares is not None
    torch.testing.assert_close(found.squares, squares, rtol=1e-4, atol=1e-3)


def test_blocks_of_queries_are_joined_to_what_one_would_give(view: RunView) -> None:
    rows, query = view.candidates(2), view.probes(2)
    for estimator in (GradDot(), Ekfac(fitter="hooks", damping=0.3)):
        fitted = estimator.fit(view, rows)
        one = low_rank.prepared_at_rank(estimator, view, fitted, query, 4, block=100)
        other = low_rank.prepared_at_rank(estimator, view, fitted, query, 4, block=3)

        found, wanted = (estimator.score(view, p, rows).total for p in (other, one))

        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_shorter_last_block_is_joined_whatever_form_it_keeps(view: RunView) -> None:
    """Alone, a query of 24 tokens is kept as factors, where eight are multiplied: at rank 64."""
    rows, query = (batch_cut(batch, 24) for batch in (view.candidates(2), view.probes(3)))
    query = query.select(slice(0, 9))
    estimator = GradDot(**PLAIN)
    forms = [
        {name.partition(":")[0] for name in estimator.prepare(view, {}, part)}
        for part in (query.select(slice(0, 8)), query.select(slice(8, 9)))
    ]

    found = low_rank.prepared_at_rank(estimator, view, {}, query, 64, block=8)

    assert "query" in forms[0]
    assert "left" in forms[1]
    scores, wanted = (
        estimator.score(view, p, rows).total for p in (found, estimator.prepare(view, {}, query))
    )
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_agreement_falls_with_the_rank(view: RunView) -> None:
    rows, query = view.candidates(8), view.probes(1)
    estimator = GradDot(**PLAIN)

    lowest, low, high = (
        sum(low_rank.agreement(estimator, view, {}, query, rows, rank)) for rank in (1, 4, 24)
    )

    assert lowest < high
    assert low < high
    assert high > 0.99 * len(query.rows)
