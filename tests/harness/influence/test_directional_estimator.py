"""The directional estimator against exact gradients and real steps; its forms with each other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from harness.api import Batch, Direction
from harness.influence import directional, directional_estimator, directional_forms
from harness.influence.derivatives import by_forward_mode, by_hooks, eager_twin, plain_product
from harness.influence.directional import adam_scale, norm, preconditioned
from harness.influence.directional_estimator import Directional
from harness.influence.directional_forms import FORMS, check_rows, choose_form
from harness.model import token_losses
from harness.spec import Model
from harness.testing import EstimatorContract
from harness.view import RunView
from tests import tiny
from tests.harness.influence.test_directional import exact_scores
from tests.harness.influence.test_row_gradients import build, by_autograd, closeness, some_rows

if TYPE_CHECKING:
    from tests.tiny import MakeLoop, MakeSpec


class TestContract(EstimatorContract):
    """Finite differences; a loss's rounding is divided by the step, hence the looser agreement.

    Losses are right to 1e-7 of their size, and change by 1e-4 of it over the step.
    """

    relative = 5e-3

    @pytest.fixture(
        params=[
            Directional(),
            Directional(queries="target", difference="central", modules=("linear",)),
        ],
        ids=["one_sided", "central"],
    )
    def estimator(self, request: pytest.FixtureRequest) -> Any:
        """Return one."""
        return request.param


class TestBfloat16Contract(EstimatorContract):
    """Central differences in bfloat16, whose rounding is a thousandth of a loss's change."""

    relative = 5e-2

    @pytest.fixture
    def estimator(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return one that finds bfloat16 right."""
        monkeypatch.setattr(directional_forms, "AGREEMENT", 1.0)
        return Directional(queries="target", difference="central", precision="bfloat16")


class TestExactContract(EstimatorContract):
    """Forward mode, and the form by hooks where no step is accepted."""

    @pytest.fixture(params=["forward", "vector"])
    def estimator(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return one."""
        if request.param == "forward":
            return Directional(difference="forward", queries="mean")
        monkeypatch.setattr(directional_forms, "AGREEMENT", 0.0)
        return Directional(modules=("all",), preconditioner="none", queries="target")


def exact(view: RunView, rows: Batch, query: Batch, scale: Direction | None) -> Tensor:
    """Return <g_i, a g_q> [N] for the mean query by one backward pass per row, in float64."""
    model = copy.deepcopy(view.model).double()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradient(batch: Batch) -> Tensor:
        means = token_losses(model, batch).sum(1) / batch.mask.sum(1).clamp(min=1)
        return torch.cat([g.flatten() for g in torch.autograd.grad(means.mean(), parameters)])

    along = gradient(query)
    if scale is not None:
        along = along * torch.cat([scale[name].double().flatten() for name in names])
    return torch.stack(
        [gradient(rows.select(slice(i, i + 1))) @ along for i in range(len(rows.rows))]
    )


@pytest.mark.parametrize("preconditioner", ["adam", "none"])
def test_scores_are_exact_row_gradients_along_the_query(view: RunView, preconditioner: Any) -> None:
    """Over all parameters: to rounding in forward mode, Spearman .995 by differences."""
    rows, query = view.candidates(10), view.probes(2)
    wanted = exact(view, rows, query, adam_scale(view) if preconditioner == "adam" else None)
    differences: tuple[Any, ...] = ("one_sided", "central", "forward")
    found = {}
    for difference in differences:
        estimator = Directional(
            difference=difference, queries="mean", preconditioner=preconditioner
        )
        scores = estimator.score(view, estimator.prepare(view, {}, query), rows)
        assert scores.about["form"] == difference
        found[difference] = scores.total[:, 0]

    for difference, bound in (("one_sided", 0.04), ("central", 0.02), ("forward", 1e-5)):
        assert float((found[difference] - wanted).norm() / wanted.norm()) < bound
        assert spearmanr(found[difference], wanted).statistic >= 0.995


@pytest.mark.parametrize("adam", [False, True])
def test_one_real_step_per_row_lowers_the_querys_loss_as_scored(view: RunView, adam: bool) -> None:
    """Plain, or AdamW's with frozen second moments: r > .999, the sign, and the size."""
    rows, query = view.candidates(4), view.probes(1).select(slice(3, 4))
    estimator = Directional(preconditioner="adam" if adam else "none")
    found = estimator.score(view, estimator.prepare(view, {}, query), rows).total[:, 0]
    scale, rate = adam_scale(view), 1e-6 if adam else 1e-3

    drops = []
    for i in range(len(rows.rows)):
        model = copy.deepcopy(view.model).double()
        before = token_losses(model, query).mean()
        names, parameters = zip(*model.named_parameters(), strict=True)
        loss = token_losses(model, rows.select(slice(i, i + 1))).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                parameter -= rate * gradient * (scale[name] if adam else 1)
            drops.append(float(before - token_losses(model, query).mean()) / rate)

    real = torch.tensor(drops, dtype=torch.float64)
    assert torch.corrcoef(torch.stack([found, real]))[0, 1] > 0.999
    assert (found.sign() == real.sign()).all()
    torch.testing.assert_close(found, real, rtol=0.05, atol=0.01 * float(real.abs().max()))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neo", "opt", "bert"])
def test_both_exact_forms_are_autograds_over_all_parameters(kind: str) -> None:
    """Norms, positions, tied heads and lone biases included; to float64's precision."""
    model, rows = build(kind), some_rows()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # as harness.model.build_model leaves it
    made = torch.Generator().manual_seed(3)
    names = [name for name, _ in model.named_parameters()]
    along = {
        n: torch.randn(2, *p.shape, generator=made, dtype=p.dtype)
        for n, p in model.named_parameters()
    }
    parts = zip(names, by_autograd(model, rows, names, "mean"), strict=True)
    wanted: Any = sum(torch.einsum("b...,q...->bq", g, along[n]) for n, g in parts)
    first = {n: v[0] for n, v in along.items()}

    hooked = by_hooks(model, rows, along)
    duals = by_forward_mode(eager_twin(model), rows, first)

    torch.testing.assert_close(hooked, wanted, **closeness(kind))
    rounded = kind == "llama"  # whose norms compute in float32
    close: Any = {"rtol": 1e-5, "atol": 1e-6} if rounded else closeness(kind)
    torch.testing.assert_close(duals, wanted[:, 0], **close)
    total = plain_product(model, rows, first)
    torch.testing.assert_close(total, wanted[:, 0].sum()[None], **closeness(kind))


def planted(gradient: Direction, scale: Direction) -> Direction:
    """Return the direction with a long part that no loss depends on: a bias of all keys."""
    along = {name: value.clone() for name, value in preconditioned(gradient, scale).items()}
    along["transformer.h.0.attn.c_attn.bias"][32:64] = 1e6 * norm(along)
    return along


def test_where_no_step_holds_the_exact_form_takes_over_and_the_record_says_so(
    view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are measured by the long part, so what moves the loss drowns in rounding."""
    rows, query = view.candidates(4), view.probes(2)
    monkeypatch.setattr(directional_estimator, "preconditioned", planted)
    estimator = Directional(queries="mean")

    state = estimator.prepare(view, {}, query)
    scores = estimator.score(view, state, rows)

    assert scores.about["form"] == "vector"
    disagreement: Any = scores.about["step_disagreement"]
    assert disagreement[0] >= directional.AGREEMENT
    assert scores.about["relative_step"] == [0.0]
    along = {k.removeprefix("along:"): v[0] for k, v in state.items() if k.startswith("along:")}
    wanted = exact_scores(view, rows, along)
    assert float((scores.total[:, 0] - wanted).norm() / wanted.norm()) < 1e-3


class Scaled(nn.Module):
    """A model that reads a norm's weight where no hook sees it."""

    def __init__(self, inner: nn.Module) -> None:
        """Keep it."""
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        """Scale the logits by the sum of the final norm's weights."""
        out = self.inner(**inputs)
        out.logits = out.logits * (1 + self.inner.transformer.ln_f.weight.sum())  # type: ignore[union-attr, operator]
        return out


@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("is_spread", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_a_parameter_that_hooks_cannot_see_sends_the_form_to_forward_mode(
    view: RunView, is_fast: bool, is_spread: bool, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a step holds: then nobody asks. Spread over ranks there is no forward mode."""
    step = directional.CheckedStep(1e-3, 1e-3, disagreement=0.01 if holds else 0.7)
    monkeypatch.setattr(directional_forms, "checked_step", lambda *_: step)
    monkeypatch.setattr(directional_forms, "has_fast_bfloat16", lambda _: is_fast)
    half = replace(view, precision="bfloat16") if is_fast else view
    rows, odd = check_rows(half, 4), replace(half, model=Scaled(copy.deepcopy(half.model)))
    monkeypatch.setattr(directional_forms, "spread_product", directional_forms.plain_product)
    monkeypatch.setattr(directional_forms, "_is_spread", lambda _: is_spread)

    def form_of(one: RunView) -> tuple[str, float]:
        form = choose_form(one, rows, one.gradient(rows), "one_sided", "float32", 16)
        return form.name, form.disagreement

    if is_fast:
        assert form_of(half) == ("vector_bfloat16", 0.0)
    else:
        assert form_of(half) == (("one_sided", 0.01) if holds else ("vector", 0.7))
    if holds:
        assert form_of(odd) == ("one_sided", 0.01)
    elif is_spread:
        with pytest.raises(ValueError, match="no product by modules is right here with parallel ="):
            form_of(odd)
    else:
        assert form_of(odd) == ("forward", 0.7)


@pytest.fixture
def of_experts(view: RunView) -> RunView:
    """Return a view of a random Mixtral, whose experts are one grouped product."""
    vocabulary = view.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    model: Any = build("mixtral", vocabulary).float()
    assert model.config._experts_implementation == "grouped_mm"
    return replace(view, model=model)


@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_experts_that_cannot_be_differentiated_alone_go_to_forward_mode(
    of_experts: RunView, is_fast: bool, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no step holds; scores are exact, the trial is billed, and the model is as it was."""
    step = directional.CheckedStep(1e-3, 1e-3, disagreement=0.01 if holds else 0.7)
    monkeypatch.setattr(directional_forms, "checked_step", lambda *_: step)
    monkeypatch.setattr(directional_forms, "has_fast_bfloat16", lambda _: is_fast)
    one = replace(of_experts, precision="bfloat16") if is_fast else of_experts
    rows, query = one.candidates(2), one.probes(1)
    estimator = Directional(queries="mean", preconditioner="none")
    along, before = one.gradient(query), one.spent

    form = choose_form(one, check_rows(one, 4), along, "one_sided", "float32", 16)

    assert form.name == ("one_sided" if holds else "forward")
    assert (one.spent > before) == (is_fast or not holds)  # hooks were tried
    if holds:
        return
    prepared = estimator.prepare(one, {}, query)
    found = estimator.score(one, prepared, rows)
    assert found.about["form"] == "forward"
    along = {k.removeprefix("along:"): v[0] for k, v in prepared.items() if k.startswith("along:")}
    wanted = exact_scores(one, rows, along)
    assert float((found.total[:, 0] - wanted).norm() / wanted.norm()) < 1e-4
    assert one.model.config._experts_implementation == "grouped_mm"  # type: ignore[union-attr]
    assert not any(module._forward_hooks for module in one.model.modules())


def test_a_model_without_any_exact_form_is_told_in_one_line(
    of_experts: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its experts cannot be written out either, say."""
    monkeypatch.setattr(directional_forms, "eager_twin", lambda model: model)
    estimator = Directional(queries="mean", preconditioner="none", difference="forward")
    prepared = estimator.prepare(of_experts, {}, of_experts.probes(1))

    with pytest.raises(
        ValueError, match=r"^directional: Mixtral.* has no exact form .*; choose.*\Z"
    ):
        estimator.score(of_experts, prepared, of_experts.candidates(2))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_exact_form_computes_as_the_run_trains_where_a_trial_finds_it_right(
    architecture: str,
    make_spec: MakeSpec,
    make_loop: MakeLoop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In bfloat16 it is float32's to rounding, and not the same; where it is not, float32 stays."""
    spec = make_spec(model=Model(architecture=architecture), precision="bfloat16")  # type: ignore[arg-type]
    view = tiny.stepped(make_loop(spec), 3).view
    rows, query = view.candidates(6), view.probes(2)
    distrusted = directional.CheckedStep(1.0, 1.0, disagreement=1.0)
    monkeypatch.setattr(directional_forms, "checked_step", lambda *_: distrusted)
    estimator = Directional(queries="mean")

    state = estimator.prepare(view, {}, query)
    ours = estimator.score(view, state, rows)
    single = {**state, "form": torch.full_like(state["form"], FORMS.index("vector"))}
    wanted = estimator.score(view, single, rows)

    assert ours.about["form"] == "vector_bfloat16"
    assert 0 < float((ours.total - wanted.total).norm() / wanted.total.norm()) < 0.02
    monkeypatch.setattr(directional_forms, "difference_of", lambda *_: 1.0)
    again = estimator.score(view, estimator.prepare(view, {}, query), rows)
    assert again.about["form"] == "vector"
    assert torch.equal(again.total, wanted.total)


def test_on_a_gpu_that_trains_in_bfloat16_the_exact_form_comes_first(
    make_spec: MakeSpec, make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finite difference is tried, unless bfloat16 will not do."""
    view = tiny.stepped(make_loop(make_spec(precision="bfloat16")), 3).view
    rows, query, tried = view.candidates(6), view.probes(2), []
    distrusted = directional.CheckedStep(1.0, 1.0, disagreement=0.7)
    monkeypatch.setattr(
        directional_forms, "checked_step", lambda *given: tried.append(given) or distrusted
    )
    monkeypatch.setattr(directional_forms, "has_fast_bfloat16", lambda *_: True)
    estimator = Directional(queries="mean")

    found = estimator.score(view, estimator.prepare(view, {}, query), rows)

    assert not tried
    assert (found.about["form"], found.about["step_disagreement"]) == ("vector_bfloat16", [0.0])
    monkeypatch.setattr(directional_forms, "difference_of", lambda *_: 1.0)
    again = estimator.score(view, estimator.prepare(view, {}, query), rows)
    assert len(tried) == 1
    assert (again.about["form"], again.about["step_disagreement"]) == ("vector", [0.7])
    holds = directional.CheckedStep(1e-3, 1e-3, disagreement=0.01)
    monkeypatch.setattr(directional_forms, "checked_step", lambda *_: holds)
    stepped = estimator.score(view, estimator.prepare(view, {}, query), rows)
    assert (stepped.about["form"], stepped.about["relative_step"]) == ("one_sided", [1e-3])


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_direction_of_no_length_is_refused_whatever_is_tried_first(
    view: RunView, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of zero would look like a finding."""
    monkeypatch.setattr(directional_forms, "has_fast_bfloat16", lambda *_: is_fast)
    half = replace(view, precision="bfloat16")  # in which zeros agree with zeros
    nothing = {name: torch.zeros_like(p) for name, p in view.model.named_parameters()}

    with pytest.raises(FloatingPointError, match="the probe direction has norm 0"):
        choose_form(half, check_rows(half, 4), nothing, "one_sided", "float32", 16)


class Odd(nn.Linear):
    """A layer of a kind that nobody knows: autocast narrows what it gives and what it is given."""

    def forward(self, states: Tensor) -> Tensor:
        """Do what a linear layer does, and a little more."""
        return super().forward(states) * 1.5


def test_a_layer_of_unknown_kind_has_its_share_in_bfloat16_too() -> None:
    """Its inputs are bfloat16 there, and its parameters are not."""
    model: Any = build("gpt2").float()
    block = model.transformer.h[0]
    odd = Odd(block.mlp.c_proj.weight.shape[1], block.mlp.c_proj.weight.shape[1])
    block.mlp = nn.Sequential(block.mlp, odd)
    rows = some_rows()
    along = {name: torch.randn_like(p)[None] for name, p in model.named_parameters()}

    exact = by_hooks(model, rows, along)
    rough = by_hooks(model, rows, along, "bfloat16")

    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_bfloat16_is_used_where_it_agrees_with_float32(view: RunView) -> None:
    """Central differences near 3e-3; where it does not agree, float32 stays."""
    rows, query = view.candidates(6), view.probes(2)
    rough = Directional(difference="central", precision="bfloat16", queries="mean")
    fine = Directional(difference="central", queries="mean")
    state, steady = rough.prepare(view, {}, query), fine.prepare(view, {}, query)
    ours, wanted = rough.score(view, state, rows), fine.score(view, steady, rows)

    assert ours.about["form"] in ("central_bfloat16", "central")
    assert float((ours.total - wanted.total).norm() / wanted.total.norm()) < 0.05
    with pytest.raises(ValueError, match="needs difference = \"central\", not 'one_sided'"):
        Directional(precision="bfloat16")


def test_losses_that_are_at_hand_save_a_forward_pass(view: RunView) -> None:
    """The same scores from them, and the bill of one pass per query."""
    rows, query = view.candidates(2), view.probes(1)
    estimator = Directional(queries="target")
    state, account = estimator.prepare(view, {}, query), view.meter.accounts["mixer"]
    losses = token_losses(view.model, rows).detach().mean(1)
    start = account.flops
    without = estimator.score(view, state, rows).total
    middle = account.flops
    with_base = estimator.score(view, state, rows, base=losses).total

    assert account.flops - middle == pytest.approx((middle - start) / 2)
    torch.testing.assert_close(
        with_base, without, rtol=0.01, atol=0.01 * float(without.abs().max())
    )
    with pytest.raises(ValueError, match=r"base is \[5\]; give one loss per row, 6"):
        estimator.score(view, state, rows, base=losses[:5])


def test_a_sum_is_the_mean_times_the_count(view: RunView) -> None:
    """Of the row's counted targets."""
    rows, query = view.candidates(2), view.probes(1)
    mask = rows.mask.clone()
    mask[1, 9:] = False
    rows = replace(rows, mask=mask)
    mean, total = Directional(queries="target"), Directional(queries="target", reduction="sum")
    state = mean.prepare(view, {}, query)

    torch.testing.assert_close(
        total.score(view, state, rows).total,
        mean.score(view, state, rows).total * rows.mask.sum(1)[:, None],
    )


def test_query_rows_weigh_by_row_whatever_they_count(view: RunView) -> None:
    """A query's loss is the mean of its rows' means, as for grad_dot."""
    rows, query = view.candidates(2), view.probes(1)
    mask = query.mask.clone()
    mask[1, 5:] = False
    query = replace(query, mask=mask)
    estimator = Directional(queries="mean", preconditioner="none", difference="forward")

    found = estimator.score(view, estimator.prepare(view, {}, query), rows).total[:, 0]

    wanted = exact(view, rows, query, None)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_query_that_is_not_finite_is_named(view: RunView) -> None:
    """By row, domain and step."""
    broken = copy.deepcopy(view.model)
    with torch.no_grad():
        list(broken.parameters())[2].fill_(float("nan"))

    with pytest.raises(FloatingPointError, match=r"row \d+ of domain 'a' at step 8 is not finite"):
        Directional(preconditioner="none").prepare(replace(view, model=broken), {}, view.probes(1))
