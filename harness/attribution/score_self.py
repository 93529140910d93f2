"""Scores of rows on themselves, from one pass over them: <g_i, P g_i>, P what preconditions.

A row is not prepared as a query first, which would be a second pass and the gradients of several
rows by all modules at once. Here no more than one module's exist at a time, and its part of the
score is a sum of squares: of the gradient by Adam's factor (grad_dot), or of the gradient in the
factors' basis by the damped inverse (ekfac). It is what `prepare` and `score` of the estimator give
a row and itself, up to rounding. The engine's own functions of factors and curvature are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from harness.influence.directional import adam_scale
from harness.influence.factors import Factors, materialised
from harness.influence.finite import refuse_non_finite
from harness.influence.fisher_flops import turning
from harness.influence.flops import chunks
from harness.influence.preconditioner import ROTATED, damped_inverse
from harness.influence.query_gradients import network_flops
from harness.influence.row_gradients import backward
from harness.influence.selection import choose, largest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View
    from harness.influence.selection import Use

Squares = Callable[[str, list[Factors]], "tuple[Tensor, float] | None"]
"""From a parameter and its factors to each row's part [B] and FLOPs; None: told elsewhere."""


def self_scores(
    view: View, estimator: Any, fitted: State, rows: Batch, network: float | None = None
) -> Tensor:
    """Return each row's score with itself as the query [n] float64 on the CPU.

    `network` are the FLOPs of one row's pass, where they are known. FloatingPointError names row
    and module.
    """
    uses = choose(view.model, estimator.modules, estimator.last_blocks, estimator.biases)
    network = network_flops(view, uses, rows) if network is None else network
    is_curved = estimator.kind == "ekfac"
    squares = _curved(uses, estimator, fitted) if is_curved else _plain(view, estimator)
    parts = [
        _chunk(view, uses, estimator, c, squares, network)
        for c in chunks(rows, estimator.chunk_rows, largest(uses))
    ]
    return torch.cat(parts)


def _chunk(
    view: View, uses: list[Use], estimator: Any, rows: Batch, squares: Squares, network: float
) -> Tensor:
    found: dict[str, Tensor] = {}
    flops = network * len(rows.rows)

    def receive(name: str, factors: list[Factors]) -> None:
        nonlocal flops
        told = squares(name, factors)
        if told is not None:
            found[name] = told[0].double()
            flops += told[1]

    # the modules that share a parameter are one gradient
    losses = backward(view.model, rows, uses, receive, "mean", estimator.precision, together=True)
    view.bill(flops, rows.targets.numel())
    total = torch.zeros(len(rows.rows), dtype=torch.float64)
    for name, values in {"loss": losses, **found}.items():
        refuse_non_finite(view, rows, name, values)
        total += 0 if name == "loss" else values.cpu()
    # the query's loss is a mean, the row's what `reduction` says
    counts = rows.mask.sum(1).cpu() if estimator.reduction == "sum" else 1
    return total * counts


def _plain(view: View, estimator: Any) -> Squares:
    """Return what takes sum of a g^2 by parameter, a Adam's factor or 1."""
    adam = adam_scale(view) if estimator.preconditioner == "adam" else {}

    def squares(name: str, factors: list[Factors]) -> tuple[Tensor, float]:
        right = factors[0].right
        scale = adam[name].view(-1, right.shape[-1]).to(right.device) if adam else None
        if len(factors) == 1 and factors[0].one_hot:
            return _of_embedding(factors[0], scale)
        gradient, flops = materialised(factors[0])
        for more in factors[1:]:
            other, cost = materialised(more)
            gradient, flops = gradient.add_(other), flops + cost
        square = _at_least_float32(gradient).square_()
        return (square if scale is None else square.mul_(scale)).sum((1, 2)), flops

    return squares


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _of_embedding(one: Factors, scale: Tensor | None) -> tuple[Tensor, float]:
    """Return sum_ts [same token] (a right_t) . right_s: no row's whole table is formed."""
    right = _at_least_float32(one.right)
    scaled = right if scale is None else right * scale[one.left]
    same = one.left[:, :, None] == one.left[:, None, :]
    flops = 2.0 * right.numel() * right.shape[1]
    return (torch.bmm(scaled, right.mT) * same).sum((1, 2)), flops


def _curved(uses: list[Use], estimator: Any, fitted: State) -> Squares:
    """Return what takes sum of x^2 / (spectrum + damping) by module, x in the spectrum's basis."""
    owners = {use.weight: use for use in uses}
    inverses: dict[str, Tensor] = {}  # by module: no chunk needs to divide again
    strategy, damping, unit = estimator.strategy, estimator.damping, estimator.damping_unit

    def squares(name: str, factors: list[Factors]) -> tuple[Tensor, float] | None:
        if name not in owners:
            return None  # a bias, which comes with its weight
        use, (one,) = owners[name], factors
        g, a = (one.left, one.right) if use.kind == "linear" else (one.right, one.left)
        g, a = g.float(), a.float()
        if use.bias:
            a = torch.cat([a, torch.ones_like(a[..., :1])], -1)
        turned, flops = _turned(g, a, fitted, use.name, strategy in ROTATED)
        square = turned.square_()
        if strategy == "identity":
            return square.sum((1, 2)), flops
        if use.name not in inverses:
            made = damped_inverse(fitted, use.name, strategy, damping, unit)
            inverses[use.name] = made.to(square)
        return square.mul_(inverses[use.name]).sum((1, 2)), flops

    return squares


def _turned(
    g: Tensor, a: Tensor, fitted: State, module: str, rotated: bool
) -> tuple[Tensor, float]:
    """Return the gradients [B, O, I], in the factors' basis where there is one, and FLOPs."""
    (num_rows, tokens, out), size = g.shape, a.shape[-1]
    formed = 2.0 * num_rows * tokens * out * size
    if not rotated:
        return torch.bmm(g.mT, a), formed
    left, right = (fitted[f"{side}_vec:{module}"].to(g) for side in "GA")
    factors, gradient = turning(tokens, out, size)
    flops = formed + 2.0 * num_rows * min(factors, gradient)
    if factors <= gradient:
        return torch.bmm((g @ left).mT, a @ right), flops
    return left.mT @ (torch.bmm(g.mT, a) @ right), flops
