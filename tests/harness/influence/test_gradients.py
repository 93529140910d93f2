"""The estimators on row gradients: invariances, oracles of one real step, and what they bill."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Batch, State
from harness.influence import factors
from harness.influence.directional import adam_scale
from harness.influence.ekfac import Ekfac
from harness.influence.factors import Room
from harness.influence.flops import rows_per_pass
from harness.influence.gradients import GradCos, GradDot, Group, with_reduction
from harness.model import token_losses
from harness.testing import EstimatorContract
from harness.view import RunView
from tests.harness.influence.test_row_gradients import Gated

ESTIMATORS = [
    GradDot(),
    GradDot(preconditioner="none", queries="mean"),
    GradDot(preconditioner="none", modules=("all",)),
    GradCos(modules=("all",)),
    GradCos(preconditioner="none", modules=("all",)),
]


def some(view: RunView) -> tuple[Batch, Batch]:
    """Return nine rows, one with few counted targets and one with none, and four queries."""
    rows, query = view.candidates(3), view.probes(1)
    mask = rows.mask.clone()
    mask[1, 9:], mask[4] = False, False
    return replace(rows, mask=mask), query


def scores(estimator: Any, view: RunView, rows: Batch, query: Batch) -> Tensor:
    """Return [N, Q]."""
    state: State = estimator.prepare(view, estimator.fit(view, rows), query)
    assert all(isinstance(value, Tensor) for value in state.values())
    total: Tensor = estimator.score(view, state, rows).total
    return total


def plain_gradients(view: RunView, rows: Batch, scale: bool) -> Tensor:
    """Return one flat gradient per row of all matrices, biases left out, times Adam's factor."""
    factor = adam_scale(view)
    chosen = {n: p for n, p in view.model.named_parameters() if p.ndim == 2}
    found = []
    for i in range(len(rows.rows)):
        row = rows.select(slice(i, i + 1))
        loss = token_losses(view.model, row).sum() / row.mask.sum().clamp(min=1)
        parts = torch.autograd.grad(loss, list(chosen.values()))
        pairs = zip(chosen, parts, strict=True)
        found.append(
            torch.cat([(g.double() * (factor[n] if scale else 1)).flatten() for n, g in pairs])
        )
    return torch.stack(found)


@pytest.mark.parametrize("adam", [True, False])
def test_dots_and_cosines_are_those_of_one_backward_pass_per_row(view: RunView, adam: bool) -> None:
    """With the tied head's two parts, in the norms too; the row alone is preconditioned."""
    rows, query = some(view)
    options: dict[str, Any] = {"modules": ("all",), "biases": False}
    options["preconditioner"] = "adam" if adam else "none"
    g, q = plain_gradients(view, rows, adam), plain_gradients(view, query, False)
    dots = g @ q.T
    cosines = dots / (g.norm(dim=1)[:, None] * q.norm(dim=1))

    tolerance = {"rtol": 1e-4, "atol": 1e-5 * float(dots.abs().max())}
    torch.testing.assert_close(scores(GradDot(**options), view, rows, query), dots, **tolerance)
    found = scores(GradCos(**options), view, rows, query)
    torch.testing.assert_close(found, cosines.nan_to_num(), rtol=1e-4, atol=1e-5)
    assert float(found[4].abs().max()) == 0  # nothing counts there


def test_all_forms_of_the_product_agree() -> None:
    """Materialised, vector and ghost, in float64, and the FLOPs that each claims."""
    made = torch.Generator().manual_seed(0)
    left, right = (torch.randn(3, 4, n, generator=made).double() for n in (6, 5))
    use = factors.Factors(left, right, 6)
    queries = [factors.Factors(left[:k] + 1, right[:k] - 2, 6) for k in (1, 2)]
    for query in queries:
        dense = factors.materialised(query)[0]
        wanted = torch.einsum("btl,btr,qlr->bq", left, right, dense)
        squares = factors.materialised(use)[0].square().sum((1, 2))
        for held, norms in ((dense, False), (dense, True), (query, True)):
            with FlopCounterMode(display=False) as counter:
                found = factors.products([use], held, None, norms)
            torch.testing.assert_close(found.dots, wanted)
            assert counter.get_total_flops() == found.flops
            if norms:
                torch.testing.assert_close(found.squares, squares)


def test_short_rows_keep_their_queries_as_factors(view: RunView) -> None:
    """The ghost form is chosen by FLOPs, and gives the scores of the other."""
    rows, query = (batch_cut(batch, 2) for batch in some(view))
    estimator = GradDot(preconditioner="none", modules=("mlp",))
    state = estimator.prepare(view, {}, query)
    name = "transformer.h.0.mlp.c_fc.weight"
    dense = {k: v for k, v in state.items() if not k.startswith(("left", "right"))}
    for key in (k.removeprefix("left:") for k in state if k.startswith("left:")):
        pair = factors.Factors(state[f"left:{key}"], state[f"right:{key}"], 0)
        dense[f"query:{key}"] = factors.materialised(pair)[0]

    assert f"left:{name}" in state
    torch.testing.assert_close(
        estimator.score(view, state, rows).total, estimator.score(view, dense, rows).total
    )


def batch_cut(batch: Batch, tokens: int) -> Batch:
    """Return the first tokens of every row."""
    return Batch(
        batch.inputs[:, :tokens],
        batch.targets[:, :tokens],
        batch.mask[:, :tokens],
        batch.domains,
        batch.rows,
    )


class TestContract(EstimatorContract):
    """Invariances, bills, and what is left alone, for each of the estimators."""

    @pytest.fixture(params=ESTIMATORS, ids=["dot", "mean", "plain", "cos", "plain_cos"])
    def estimator(self, request: pytest.FixtureRequest) -> Any:
        """Return one."""
        return request.param


class TestGroupContract(EstimatorContract):
    """The same for the signal of a domain, which a row that counts nothing carries too."""

    masked_scores_zero = False

    @pytest.fixture
    def estimator(self) -> Any:
        """Return one."""
        return Group(modules=("mlp",), queries="target")


@pytest.mark.parametrize("adam", [False, True])
def test_one_real_step_per_row_lowers_the_querys_loss_as_scored(view: RunView, adam: bool) -> None:
    """A step on the chosen parameters, plain or AdamW's with frozen v: r > .999, same sign."""
    rows, query = view.candidates(4), view.probes(1).select(slice(3, 4))
    estimator = GradDot(modules=("all",), preconditioner="adam" if adam else "none")
    found = scores(estimator, view, rows, query)[:, 0]
    chosen = [k[6:] for k in estimator.prepare(view, {}, query) if k.startswith("query:")]
    scale, rate = adam_scale(view), 1e-6 if adam else 1e-3

    drops = []
    for i in range(len(rows.rows)):
        model = copy.deepcopy(view.model).double()
        parameters = dict(model.named_parameters())
        before = token_losses(model, query).mean()
        loss = token_losses(model, rows.select(slice(i, i + 1))).mean()
        gradients = torch.autograd.grad(loss, [parameters[name] for name in chosen])
        with torch.no_grad():
            for name, gradient in zip(chosen, gradients, strict=True):
                parameters[name] -= rate * gradient * (scale[name] if adam else 1)
            drops.append(float(before - token_losses(model, query).mean()) / rate)

    real = torch.tensor(drops, dtype=torch.float64)
    assert torch.corrcoef(torch.stack([found, real]))[0, 1] > 0.999
    assert (found.sign() == real.sign()).all()
    torch.testing.assert_close(found, real, rtol=0.05, atol=0.01 * float(real.abs().max()))


def test_group_is_the_mean_of_the_domains_rows(view: RunView) -> None:
    """Each row carries it."""
    rows, query = some(view)
    single, group = scores(GradDot(), view, rows, query), scores(Group(), view, rows, query)

    for domain in rows.domains.unique():
        mine = rows.domains == domain
        wanted = single[mine].mean(0).expand(int(mine.sum()), -1)
        torch.testing.assert_close(group[mine], wanted)


ONE_OUTPUT: dict[str, Any] = {"modules": (r"mlp\.gate$",)}
PLAIN: dict[str, Any] = {"preconditioner": "none", **ONE_OUTPUT}


@pytest.mark.parametrize(
    "estimator",
    [
        GradDot(**PLAIN),
        GradDot(detail=("tokens",), **PLAIN),
        GradCos(**PLAIN),
        Group(**PLAIN),
        Ekfac(strategy="identity", route="hooks", **ONE_OUTPUT),
    ],
    ids=["dot", "tokens", "cos", "group", "ekfac"],
)
def test_a_weight_of_a_single_output_is_no_bias(view: RunView, estimator: Any) -> None:
    """Its factors have the shapes of a bias's, and each position its own gradient and input."""
    rows, query = some(view)
    model: Any = copy.deepcopy(view.model)
    with torch.random.fork_rng():
        model.transformer.h[0].mlp = Gated(model.transformer.h[0].mlp, 32)
    gate = model.transformer.h[0].mlp.gate

    def gradients(batch: Batch) -> Tensor:
        losses = token_losses(model, batch).sum(1) / batch.mask.sum(1).clamp(min=1)
        both = [torch.autograd.grad(one, gate.parameters(), retain_graph=True) for one in losses]
        return torch.stack([torch.cat([g.flatten() for g in each]) for each in both]).double()

    g, q = gradients(rows), gradients(query)
    wanted = g @ q.T
    if estimator.kind == "grad_cos":
        wanted = (wanted / (g.norm(dim=1)[:, None] * q.norm(dim=1))).nan_to_num()
    if estimator.kind == "group":
        wanted = torch.stack([wanted[rows.domains == d].mean(0) for d in rows.domains])

    found = scores(estimator, replace(view, model=model), rows, query)

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_the_mean_query_is_the_mean_of_the_queries(view: RunView) -> None:
    """Dot products are linear."""
    rows, query = some(view)
    each = scores(GradDot(), view, rows, query).mean(1, keepdim=True)

    mean = scores(GradDot(queries="mean"), view, rows, query)

    torch.testing.assert_close(mean, each, rtol=1e-4, atol=1e-5 * float(each.abs().max()))


def test_the_target_query_weighs_rows_by_the_runs_targets(view: RunView) -> None:
    """Two target domains, with rows of both and of another: the weighted mean of their scores."""
    rows, query = view.candidates(2), view.probes(2)
    twin = replace(view, targets=torch.tensor([0.3, 0.0, 0.0, 0.7]).double())
    weights = torch.tensor([0.15, 0.15, 0, 0, 0, 0, 0.35, 0.35]).double()
    each = scores(GradDot(), view, rows, query)

    found = scores(GradDot(queries="target"), twin, rows, query)

    size = float(each.abs().max())
    torch.testing.assert_close(found[:, 0], each @ weights, rtol=1e-4, atol=1e-5 * size)


def test_leaving_one_row_out_of_a_linear_regression_is_closed_form() -> None:
    """With the query through the inverse Hessian, products are first-order leave-one-out changes.

    Parameters are refitted by least squares without each row; h is the row's leverage.
    """
    made = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=made, dtype=torch.float64)
    y = x @ torch.randn(4, 1, generator=made, dtype=torch.float64)
    y += torch.randn(12, 1, generator=made, dtype=torch.float64)
    hessian, fitted = x.T @ x, torch.linalg.lstsq(x, y).solution
    query, wanted = torch.randn(4, 1, generator=made, dtype=torch.float64), 1.5
    gradient = (query.T @ fitted - wanted) * query  # [4, 1] of half the squared error
    along = torch.linalg.solve(hessian, gradient).T[None]  # [1, 1, 4]

    rows = factors.Factors((x @ fitted - y)[:, :, None], x[:, None, :], 1)
    found = factors.products([rows], along, None, squares=False).dots[:, 0]

    leverage = (x @ torch.linalg.solve(hessian, x.T)).diagonal()
    for i in range(12):
        kept = torch.arange(12) != i
        refitted = torch.linalg.lstsq(x[kept], y[kept]).solution
        rise = (gradient * (refitted - fitted)).sum()
        torch.testing.assert_close(found[i] / (1 - leverage[i]), rise)


def test_sum_and_mean_convert_into_each_other(view: RunView) -> None:
    """A score says which it is."""
    rows, query = some(view)
    mean, total = GradDot(), GradDot(reduction="sum")
    state = mean.prepare(view, {}, query)
    one, other = mean.score(view, state, rows), total.score(view, state, rows)

    assert (one.about["reduction"], other.about["reduction"]) == ("mean", "sum")
    # computed in float32, added up in float64
    for score, wanted in ((one, other), (other, one)):
        converted = with_reduction(score, rows, wanted.about["reduction"])  # type: ignore[arg-type]
        size = float(wanted.total.abs().max())
        torch.testing.assert_close(converted.total, wanted.total, rtol=1e-5, atol=1e-6 * size)
    with pytest.raises(ValueError, match="convert, not those of 'group'"):
        with_reduction(Group().score(view, state, rows), rows, "sum")


@pytest.mark.parametrize("queries", ["each", "mean"])
def test_bfloat16_ranks_as_float32_does(view: RunView, queries: Any) -> None:
    """The network in bfloat16, and with a single query the products too."""
    rows, query = some(view)
    how: Any = {"preconditioner": "none", "queries": queries, "modules": ("all",)}
    exact = scores(GradDot(**how), view, rows, query)

    rough = scores(GradDot(precision="bfloat16", **how), view, rows, query)

    assert torch.corrcoef(torch.stack([exact.flatten(), rough.flatten()]))[0, 1] > 0.999
    assert float((exact - rough).norm() / exact.norm()) < 0.02
    assert not torch.equal(exact, rough)


def test_a_value_that_is_not_finite_names_row_and_module(
    view: RunView,
) -> None:
    """The row by its domain and number, the module that its gradient broke in."""
    rows, query = some(view)
    state = GradDot().prepare(view, {}, query)
    state["query:transformer.h.1.mlp.c_fc.weight"][0, 0, 0] = float("inf")

    with pytest.raises(
        FloatingPointError, match=r"row \d+ of domain 'a' at step 8 .* in transformer.h.1.mlp.c_fc"
    ):
        GradDot().score(view, state, rows)


def test_memory_does_not_grow_with_the_number_of_rows(
    view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest row gradient is that of one chunk, and one parameter is held at a time."""
    import weakref

    alive: set[int] = set()
    peaks: list[int] = []
    plain = factors.materialised

    def watched(use: factors.Factors, room: Any) -> tuple[Tensor, float]:
        value, flops = plain(use, room)
        alive.add(id(value))
        weakref.finalize(value, alive.discard, id(value))
        peaks.append(len(alive) * value.numel())
        return value, flops

    _, query = some(view)
    estimator = GradDot(chunk_rows=4)
    state = estimator.prepare(view, {}, query)
    monkeypatch.setattr(factors, "materialised", watched)
    found = []
    for per_domain in (4, 16):
        peaks.clear()
        estimator.score(view, state, view.candidates(per_domain))
        found.append(max(peaks))

    largest = max(p.numel() for p in view.model.transformer.h.parameters())  # type: ignore[union-attr]
    assert found == [4 * largest, 4 * largest]


def test_chunk_rows_must_not_be_negative() -> None:
    """Said at once."""
    with pytest.raises(ValueError, match="chunk_rows"):
        GradDot(chunk_rows=-1)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(8, 64), (64, 64), (128, 32), (1000, 4), (2048, 2), (5000, 1)]
)
def test_a_pass_holds_about_as_many_tokens_however_long_a_row_is(
    tokens: int, expected: int
) -> None:
    """4,096, at most 64 rows, at least one."""
    assert rows_per_pass(torch.zeros(3, tokens)) == expected


def test_where_a_parameter_is_large_few_rows_have_to_do() -> None:
    """Its row gradients are formed: 256 MiB of them, or 16 rows."""
    assert rows_per_pass(torch.zeros(3, 64), largest=2**18) == 64
    assert rows_per_pass(torch.zeros(3, 64), largest=2**21) == 32
    assert rows_per_pass(torch.zeros(3, 64), largest=50257 * 768) == 16
    assert rows_per_pass(torch.zeros(3, 2048), largest=2**18) == 2


def test_half_and_single_numbers_have_a_place_each_in_a_room() -> None:
    """So that a gradient in bfloat16 and its copy in float32 are there at once, fault-free."""
    room, like = Room(), torch.zeros(1)
    single = room.of((2, 3), like).fill_(1)
    half = room.of((6,), like, torch.bfloat16).fill_(2)

    assert single.eq(1).all()
    assert half.dtype == torch.bfloat16
    assert room.of((3, 2), like).data_ptr() == single.data_ptr()
    assert room.of((1,), like, torch.bfloat16).data_ptr() == half.data_ptr()
