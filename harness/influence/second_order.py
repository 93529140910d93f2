"""The quadratic model of the next step's target loss in the domain weights, and its minimum.

One step at weights w moves parameters by -rate (sum_k w_k s_k + b): s_k = a g_k is domain k's mean
step, b what the optimizer does whatever the weights (momentum and weight decay). With the target's
gradient g and Hessian H the loss falls, per unit of rate and up to what does not depend on w, by

    p.w - rate/2 w'Q w,   p_k = <s_k, g> - rate <s_k, H b>,   Q_kl = <s_k, H s_l>

H s_k is one Hessian-vector product per domain, by a second backward pass through the gradient's;
<s_k, H b> is <H s_k, b> and costs nothing more. Source: arXiv:2505.19051 with domains tied. The
second pass has no fused attention on the CPU, so attention is written out, on a copy that shares
the parameters. The price: a refresh costs about 1 + 2 K gradients of the probe rows more than the
first order alone. Shapes: K domains, B probe rows, Q queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from harness.domains import projected
from harness.influence.derivatives import Functional, eager_twin
from harness.influence.directional import _group_of, adam_scale, preconditioned
from harness.influence.flops import billed
from harness.influence.queries import query_weights
from harness.influence.row_gradients import row_losses

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, View

# Steps of the minimiser, each on the pair of weights that gains most; ten suffice for ten domains.
MOST_STEPS = 100_000
# A weight this near to a bound is at it: float64 does not resolve less in a sum of weights.
ROOM = 1e-14
# Where curvature is negative it is raised to this share of the pull towards the anchor.
LEAST_CURVATURE = 1e-6


class SecondOrder(NamedTuple):
    """The terms of the quadratic model, float64 on the CPU."""

    first: Tensor  # [K], <s_k, g>, nats per unit of rate
    drift: Tensor  # [K], <s_k, H b>, nats per unit of rate squared; 0 where no drift was given
    curvature: Tensor  # [K, K], Q, symmetric

    def gain(self, rate: float) -> Tensor:
        """Return p [K]."""
        return self.first - rate * self.drift


class Mixture(NamedTuple):
    """The minimum, and what it took to have one."""

    weights: Tensor  # [K]
    shift: float  # added to the pull towards the anchor; 0 where the model was convex


def is_first_order(estimator: Any) -> bool:
    """Tell whether its scores are the model's first term: dot products of means, all parameters.

    Embeddings and linear layers are "all" of `modules`; what norms add to p is left out there, and
    their part of Q is not.
    """
    said = estimator.about()
    whole = estimator.kind == "directional" and not estimator.modules
    whole = whole or (hasattr(estimator, "landmarks") and estimator.modules == ("all",))
    return bool(whole and said["approximates"] == "grad_dot" and said["reduction"] == "mean")


def of_domains(
    view: View, rows: Batch, query: Batch, preconditioner: Literal["adam", "none"]
) -> SecondOrder:
    """Return the terms for the run's target, with s_k from the domain's rows among `rows`.

    Domains without rows have no step. AdamW's drift comes with its factor.
    """
    adam = preconditioner == "adam"
    scale = adam_scale(view) if adam else {}
    steps: list[Direction] = []
    for k in range(len(view.domains)):
        mine = (rows.domains == k).nonzero()[:, 0]
        gradient = view.gradient(rows.select(mine)) if len(mine) else {}
        steps.append(preconditioned(gradient, scale) if adam else gradient)
    weights = query_weights(view, query, "target")[0]
    return second_order(view, query, weights, steps, adam_drift(view) if adam else None)


def second_order(
    view: View,
    query: Batch,
    weights: Tensor,
    steps: list[Direction],
    drift: Direction | None = None,
    chunk_rows: int = 8,
) -> SecondOrder:
    """Return the model's terms for the loss sum_i weights[i] * (mean loss of query row i).

    `steps` are s_k and `drift` is b, by parameter name; names that a direction lacks do not move.
    FloatingPointError names the domain whose product is not finite.
    """
    gradient, products = hessian_products(view, query, weights, steps, chunk_rows)
    first = torch.tensor([_dot(s, gradient) for s in steps], dtype=torch.float64)
    curvature = torch.tensor([[_dot(s, h) for h in products] for s in steps]).double()
    along = [0.0 if drift is None else _dot(drift, h) for h in products]
    found = SecondOrder(first, torch.tensor(along).double(), (curvature + curvature.T) / 2)
    for k, domain in enumerate(view.domains[: len(steps)]):
        parts = (found.first[k], found.drift[k], *found.curvature[k])
        if not all(bool(part.isfinite()) for part in parts):
            where = f"domain {domain!r} at step {view.step}"
            raise FloatingPointError(f"the second-order influence of {where} is not finite")
    return found


def hessian_products(
    view: View, query: Batch, weights: Tensor, directions: list[Direction], chunk_rows: int = 8
) -> tuple[Direction, list[Direction]]:
    """Return the gradient g of the weighted query loss and H v for each direction v."""
    counted = weights.ne(0)
    rows, weights = query.select(counted.to(query.rows.device)), weights[counted]
    leaves = {n: p.detach().requires_grad_() for n, p in view.model.named_parameters()}
    names, parameters = zip(*leaves.items(), strict=True)
    model: Any = Functional(eager_twin(view.model), leaves)
    given = [_filled(direction, names, parameters) for direction in directions]
    gradient = [torch.zeros_like(p) for p in parameters]
    products = [[torch.zeros_like(p) for p in parameters] for _ in directions]
    start = 0

    def of_chunk(chunk: Batch) -> Tensor:
        nonlocal start
        share = weights[start : start + len(chunk.rows)].to(chunk.inputs.device)
        start += len(chunk.rows)
        with torch.enable_grad():
            losses = row_losses(model, chunk, "mean")
            loss = (losses * share.to(losses)).sum()
            first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
            used = [i for i, g in enumerate(first) if g.requires_grad]
            for product, direction in zip(products, given, strict=True):
                outputs, along = [first[i] for i in used], [direction[i] for i in used]
                found = torch.autograd.grad(
                    outputs, parameters, along, retain_graph=True, materialize_grads=True
                )
                _add(product, found)
        _add(gradient, tuple(g.detach() for g in first))
        return losses.detach()

    billed(view, rows, chunk_rows, of_chunk)
    return (
        dict(zip(names, gradient, strict=True)),
        [dict(zip(names, product, strict=True)) for product in products],
    )


def adam_drift(view: View) -> Direction:
    """Return b: what AdamW's next step adds to the scaled gradient, per unit of rate.

    Decoupled weight decay, and the first moment's share, with the second moments frozen.
    """
    drift = {}
    for name, parameter in view.model.named_parameters():
        group, moments = _group_of(view, parameter), view.optimizer.state[parameter]
        beta1, beta2 = group["betas"]
        taken = float(moments["step"])
        root = (moments["exp_avg_sq"] / (1 - beta2**taken)).sqrt() + group["eps"]
        momentum = beta1 / (1 - beta1 ** (taken + 1)) * moments["exp_avg"] / root
        drift[name] = momentum + group["weight_decay"] * parameter.detach()
    return drift


def simplex_qp(
    gain: Tensor,
    curvature: Tensor,
    strength: float,
    anchor: Tensor,
    floor: float = 0.0,
    cap: float = 1.0,
    rate: float = 1.0,
) -> Mixture:
    """Return argmin -p.w + rate/2 w'Q w + strength/2 |w - anchor|^2, floor <= w <= cap, sum w = 1.

    Where curvature on differences of mixtures is negative, the pull is strengthened by the least
    that makes the model convex: stopping a run for it would be worse, a flat direction ends at the
    bounds as the true minimum does, and the result changes continuously. `shift` tells of it.
    """
    if not float(curvature.abs().max()):
        return Mixture(projected(anchor + gain / strength, floor, cap), 0.0)
    num_domains = len(gain)
    matrix = rate * (curvature + curvature.T) / 2
    centering = torch.eye(num_domains, dtype=torch.float64) - 1 / num_domains
    # On differences of mixtures alone: the eigenvalue 0 of the centering itself is the first found.
    smallest = float(torch.linalg.eigvalsh(centering @ matrix @ centering)[0])
    shift = max(0.0, LEAST_CURVATURE * strength - strength - smallest)
    pull = strength + shift
    hessian = matrix + pull * torch.eye(num_domains, dtype=torch.float64)
    linear = gain + pull * anchor
    start = projected(anchor, floor, cap)
    return Mixture(_minimum(hessian.numpy(), linear.numpy(), start.numpy(), floor, cap), shift)


def _minimum(
    hessian: np.ndarray, linear: np.ndarray, start: np.ndarray, floor: float, cap: float
) -> Tensor:
    """Minimise w'Aw/2 - c.w by moving weight between the two domains that gain most by it."""
    w = start.copy()
    for _ in range(MOST_STEPS):
        slope = hessian @ w - linear
        up = int(np.where(w < cap - ROOM, slope, np.inf).argmin())
        down = int(np.where(w > floor + ROOM, slope, -np.inf).argmax())
        if not slope[down] > slope[up]:
            break
        bend = hessian[up, up] + hessian[down, down] - 2 * hessian[up, down]
        step = min((slope[down] - slope[up]) / bend, cap - w[up], w[down] - floor)
        if step < ROOM / 10:
            break
        w[up], w[down] = w[up] + step, w[down] - step
    return torch.from_numpy(w.clip(floor, cap))


def _filled(
    direction: Direction, names: tuple[str, ...], parameters: tuple[Tensor, ...]
) -> list[Tensor]:
    """Return one tensor per parameter, zero where the direction names none."""
    pairs = zip(names, parameters, strict=True)
    return [direction[n].to(p) if n in direction else torch.zeros_like(p) for n, p in pairs]


def _add(total: list[Tensor], more: tuple[Tensor, ...]) -> None:
    for sum_, part in zip(total, more, strict=True):
        sum_ += part


def _dot(one: Direction, other: Direction) -> float:
    """Return the inner product over the names that both have."""
    return sum(
        float((one[name].double() * other[name].double()).sum()) for name in one if name in other
    )
