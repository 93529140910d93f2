"""Hessian-vector products, the quadratic model of a real step, and its minimum by brute force."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Batch, Direction
from harness.domains import projected
from harness.influence.directional import adam_scale, preconditioned
from harness.influence.queries import query_weights
from harness.influence.second_order import (
    adam_drift,
    hessian_products,
    of_domains,
    second_order,
    simplex_qp,
)
from harness.model import token_losses
from harness.view import RunView


def doubled(view: RunView) -> RunView:
    """Return the view with a float64 copy of its model."""
    return replace(view, model=copy.deepcopy(view.model).double())


def gradient(view: RunView, query: Batch, weights: Tensor, moved: Direction | None) -> Direction:
    """Return the gradient of the weighted query loss at parameters + moved, by plain autograd."""
    model = copy.deepcopy(view.model)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    if moved is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(moved[name])
    losses = token_losses(model, query).sum(1) / query.mask.sum(1)
    names, parameters = zip(*model.named_parameters(), strict=True)
    parts = torch.autograd.grad((losses * weights).sum(), parameters)
    return dict(zip(names, parts, strict=True))


def domain_steps(view: RunView, rows: Batch) -> list[Direction]:
    """Return a g_k of each trained domain."""
    scale = adam_scale(view)
    return [
        preconditioned(view.gradient(rows.select(rows.domains == k)), scale)
        for k in range(len(view.domains))
    ]


def widened(steps: list[Direction]) -> list[Direction]:
    """Return them in float64."""
    return [{name: value.double() for name, value in step.items()} for step in steps]


def flat(direction: Direction) -> Tensor:
    """Return one vector."""
    return torch.cat([value.double().flatten() for value in direction.values()])


def test_hessian_products_are_differences_of_gradients(view: RunView) -> None:
    """In float64; the gradient comes with them; chunks and rows without weight change nothing."""
    wide, query = doubled(view), view.probes(2)
    weights = query_weights(view, query, "target")[0]
    step = {n: v.double() for n, v in domain_steps(view, view.candidates(2))[0].items()}
    eps = 1e-4 / float(flat(step).norm())

    first, (found,) = hessian_products(wide, query, weights, [step], chunk_rows=1)

    there, back = (
        gradient(wide, query, weights, {n: s * eps * v for n, v in step.items()}) for s in (1, -1)
    )
    wanted = (flat(there) - flat(back)) / (2 * eps)
    assert float((flat(found) - wanted).norm() / wanted.norm()) < 1e-6
    torch.testing.assert_close(flat(first), flat(gradient(wide, query, weights, None)))
    _, (together,) = hessian_products(wide, query, weights, [step], chunk_rows=8)
    torch.testing.assert_close(flat(together), flat(found))


def test_curvature_is_symmetric_by_itself(view: RunView) -> None:
    """<s_k, H s_l> = <s_l, H s_k>, before anything is averaged."""
    wide, query = doubled(view), view.probes(2)
    weights = query_weights(view, query, "target")[0]
    steps = widened(domain_steps(view, view.candidates(2)))

    _, products = hessian_products(wide, query, weights, steps)
    raw = torch.tensor([[float(flat(s) @ flat(h)) for h in products] for s in steps])
    found = second_order(wide, query, weights, steps)

    torch.testing.assert_close(raw, raw.T, rtol=1e-6, atol=1e-9 * float(raw.abs().max()))
    torch.testing.assert_close(found.curvature, raw.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.curvature, found.curvature.T)
    assert not found.drift.any()


def test_the_quadratic_model_foresees_a_real_step_of_adamw(view: RunView) -> None:
    """The loss after a step at given weights: second order is closer than first, by far."""
    wide, query = doubled(view), view.probes(2)
    weights = query_weights(view, query, "target")[0]
    steps = widened(domain_steps(view, view.candidates(2)))
    drift = {n: v.double() for n, v in adam_drift(view).items()}
    model, rate = second_order(wide, query, weights, steps, drift), 1e-3

    def loss(mixture: Tensor) -> float:
        moved = copy.deepcopy(wide.model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                step = sum(w * s[name] for w, s in zip(mixture, steps, strict=True))
                parameter.sub_(rate * (step + drift[name]))
            return float((token_losses(moved, query).mean(1) * weights).sum())

    mixtures = [torch.tensor(m).double() for m in ((1.0, 0, 0), (0, 1.0, 0), (0.2, 0.3, 0.5))]
    even = torch.full((3,), 1 / 3, dtype=torch.float64)

    def foreseen(mixture: Tensor, order: int) -> float:
        p = model.gain(rate) if order == 2 else model.first
        bend = rate / 2 * mixture @ model.curvature @ mixture if order == 2 else 0.0
        return float(-rate * (p @ mixture - bend))

    real = torch.tensor([loss(m) - loss(even) for m in mixtures])
    one, two = (
        torch.tensor([foreseen(m, order) - foreseen(even, order) for m in mixtures])
        for order in (1, 2)
    )
    assert float((two - real).norm()) < 0.1 * float((one - real).norm())
    assert float((two - real).norm()) < 0.02 * float(real.norm())


def test_the_terms_of_domains_are_those_of_their_rows_and_the_target(view: RunView) -> None:
    """Mean steps of each domain, AdamW's drift with its factor; a domain without rows has none."""
    rows, query = view.candidates(2), view.probes(2)
    weights, steps = query_weights(view, query, "target")[0], domain_steps(view, rows)
    found = of_domains(view, rows, query, "adam")

    wanted = second_order(view, query, weights, steps, adam_drift(view))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    fewer = of_domains(view, rows.select(rows.domains != 1), query, "none")
    assert not fewer.first[1]
    assert not fewer.curvature[1].any()
    assert not fewer.drift.any()
    assert fewer.first[[0, 2]].all()


def test_adams_drift_is_what_a_step_without_gradient_does(view: RunView) -> None:
    """One step of a copied AdamW with gradient 0, the second moments' decay taken off."""
    model = copy.deepcopy(view.model)
    names = [name for name, _ in model.named_parameters()]
    groups = []
    for group in view.optimizer.param_groups:
        own = {id(p): n for n, p in view.model.named_parameters()}
        members = [model.get_parameter(own[id(p)]) for p in group["params"]]
        groups.append({**group, "params": members, "lr": 1e-4})
    optimizer = torch.optim.AdamW(groups)
    old = dict(view.model.named_parameters())
    for name in names:
        state = {k: v.clone() for k, v in view.optimizer.state[old[name]].items()}
        taken, (_, beta2) = float(state["step"]), groups[0]["betas"]
        # such that after the step's own decay v_hat is what it was
        state["exp_avg_sq"] *= (1 - beta2 ** (taken + 1)) / (1 - beta2**taken) / beta2
        optimizer.state[model.get_parameter(name)] = state
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    drift = adam_drift(view)
    for name, parameter in model.named_parameters():
        moved = (old[name] - parameter).detach() / 1e-4
        torch.testing.assert_close(moved, drift[name], rtol=1e-2, atol=2e-3)


def test_the_bill_is_what_torch_counts_and_the_run_is_left_alone(view: RunView) -> None:
    """Within 5 %; weights, grads and attention as they were."""
    query, before = view.probes(3), copy.deepcopy(view.model.state_dict())
    weights = torch.full((len(query.rows),), 1 / len(query.rows), dtype=torch.float64)
    steps, spent = domain_steps(view, view.candidates(2)), view.spent
    spent = view.spent
    with FlopCounterMode(display=False) as counter:
        second_order(view, query, weights, steps, chunk_rows=4)

    assert view.spent - spent == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert all(torch.equal(v, before[n]) for n, v in view.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in view.model.parameters())
    assert view.model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]


def test_a_step_that_is_not_finite_names_its_domain(view: RunView) -> None:
    """The second domain's."""
    query, steps = view.probes(1), domain_steps(view, view.candidates(2))
    steps[1] = {n: v * float("inf") for n, v in steps[1].items()}
    with pytest.raises(FloatingPointError, match=r"domain '[ab]' at step 8"):
        second_order(view, query, query_weights(view, query, "target")[0], steps)


def objective(w: Tensor, p: Tensor, q: Tensor, strength: float, anchor: Tensor) -> Tensor:
    """Return the objective [...] of mixtures [..., K] at rate .7."""
    curved = torch.einsum("...k,kl,...l->...", w, q, w)
    return -(w @ p) + 0.35 * curved + strength / 2 * (w - anchor).square().sum(-1)


def grid(floor: float, cap: float, size: int = 400) -> Tensor:
    """Return mixtures of three domains."""
    ticks = torch.arange(size + 1, dtype=torch.float64) / size
    pairs = torch.cartesian_prod(ticks, ticks)
    mixtures = torch.cat([pairs, 1 - pairs.sum(1, keepdim=True)], 1)
    inside = (mixtures >= floor - 1e-12) & (mixtures <= cap + 1e-12)
    return mixtures[inside.all(1)]


def problems(num: int = 12) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return p, Q and an anchor each; the curvature is of both signs."""
    made = torch.Generator().manual_seed(0)
    found = []
    for _ in range(num):
        half = torch.randn(3, 3, generator=made).double()
        anchor = torch.rand(3, generator=made).double() + 0.1
        p = torch.randn(3, generator=made).double()
        found.append((p, (half + half.T) / 2, anchor / anchor.sum()))
    return found


@pytest.mark.parametrize(("floor", "cap"), [(0.0, 1.0), (0.05, 0.6)])
def test_the_minimum_is_that_of_a_grid(floor: float, cap: float) -> None:
    """Three domains, all mixtures in steps of 1/400, curvature that the pull makes convex."""
    mixtures = grid(floor, cap)
    for p, q, anchor in problems():
        found = simplex_qp(p, q, 4.0, anchor, floor, cap, rate=0.7)
        values = objective(mixtures, p, q, 4.0, anchor)

        assert found.shift == 0
        assert float(found.weights.sum()) == pytest.approx(1, abs=1e-12)
        assert floor <= float(found.weights.min()) <= float(found.weights.max()) <= cap
        best = float(objective(found.weights, p, q, 4.0, anchor))
        assert best <= float(values.min()) + 1e-12
        assert float((found.weights - mixtures[values.argmin()]).abs().max()) < 4e-3


def test_the_minimum_is_scipys_for_many_domains() -> None:
    """Ten domains, sequential quadratic programming."""
    from scipy.optimize import minimize

    made = torch.Generator().manual_seed(1)
    half = torch.randn(10, 10, generator=made).double()
    p, q = torch.randn(10, generator=made).double(), half @ half.T
    anchor = torch.full((10,), 0.1, dtype=torch.float64)

    found = simplex_qp(p, q, 0.5, anchor, 0.02, 0.5, rate=0.7).weights

    def slope(w: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(w)
        return np.asarray(0.7 * q @ point - p + 0.5 * (point - anchor))

    oracle = minimize(
        lambda w: float(objective(torch.from_numpy(w), p, q, 0.5, anchor)),
        anchor.numpy(),
        jac=slope,
        bounds=[(0.02, 0.5)] * 10,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    torch.testing.assert_close(found, torch.from_numpy(oracle.x), rtol=0, atol=1e-6)
    assert float(objective(found, p, q, 0.5, anchor)) <= oracle.fun + 1e-12


def test_without_curvature_it_is_the_projection_of_the_first_order() -> None:
    """Equal to what the mixer's rule does, and near it for next to no curvature."""
    for p, q, anchor in problems():
        wanted = projected(anchor + p / 2.0, 0.02, 0.9)
        none = simplex_qp(p, torch.zeros(3, 3).double(), 2.0, anchor, 0.02, 0.9)
        little = simplex_qp(p, 1e-9 * q, 2.0, anchor, 0.02, 0.9)
        assert torch.equal(none.weights, wanted)
        torch.testing.assert_close(little.weights, wanted, rtol=0, atol=1e-8)


def test_negative_curvature_ends_at_the_bounds_and_is_told_of() -> None:
    """The shift is the least; the objective there is near the true minimum of a grid."""
    q = -torch.eye(3, dtype=torch.float64) * 10
    p, anchor = torch.tensor([0.1, 0.3, 0.0]).double(), torch.full((3,), 1 / 3).double()

    found = simplex_qp(p, q, 1.0, anchor, 0.05, 1.0, rate=0.7)

    assert found.shift == pytest.approx(6.0, abs=1e-4)
    torch.testing.assert_close(found.weights, torch.tensor([0.05, 0.9, 0.05]).double())
    mixtures = grid(0.05, 1.0)
    values = objective(mixtures, p, q, 1.0, anchor)
    assert float((mixtures[values.argmin()] - found.weights).abs().max()) < 1e-9


def test_the_result_is_continuous_where_convexity_ends() -> None:
    """No jump between a pull that is barely enough and one that is barely not."""
    p, anchor = torch.tensor([0.3, 0.0, -0.1]).double(), torch.full((3,), 1 / 3).double()
    q = torch.diag(torch.tensor([-1.0, -1.0, -1.0])).double()
    both = [simplex_qp(p, q, s, anchor).weights for s in (1 + 1e-5, 1 - 1e-5)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-6)


def test_domains_may_be_renamed() -> None:
    """Permuting the problem permutes the mixture."""
    for (p, q, anchor), order in itertools.product(problems(3), ([2, 0, 1], [1, 0, 2])):
        one = simplex_qp(p, q, 4.0, anchor).weights
        other = simplex_qp(p[order], q[order][:, order], 4.0, anchor[order]).weights
        torch.testing.assert_close(other, one[order], rtol=0, atol=1e-10)
