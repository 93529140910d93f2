"""Gradients of queries, by parameter, preconditioned once for any number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.influence.factors import Factors, Room, materialised, summed
from harness.influence.finite import all_finite, refuse_non_finite
from harness.influence.flops import chunks, counter
from harness.influence.preconditioner import joined, parted, precondition
from harness.influence.row_gradients import backward
from harness.influence.selection import largest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View
    from harness.influence.ekfac import Ekfac
    from harness.influence.selection import Use


def preconditioned_queries(
    view: View,
    uses: list[Use],
    fitted: State,
    query: Batch,
    weights: Tensor,
    options: Ekfac,
) -> State:
    """Return `query:P` [Q, L, R], the plain gradients' `norms` [Q], and a row's network `flops`.

    `weights` [Q, rows] are of each row's mean loss in each query's.
    """
    network = network_flops(view, uses, query)
    gradients, flops = _gradients(view, uses, query, weights, options)
    view.bill(network * len(query.rows) + flops, query.targets.numel())
    lengths = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
    squares = torch.stack(lengths).double().square().sum(0).cpu()
    state = {"flops": torch.tensor(network, dtype=torch.float64), "norms": squares.sqrt()}
    for use in uses:
        whole, cost = precondition(
            joined(gradients, use),
            fitted,
            use.name,
            options.strategy,
            options.damping,
            options.damping_unit,
        )
        if not all_finite(whole):
            where = f"module {use.name!r} at step {view.step}"
            raise FloatingPointError(f"the preconditioned query gradient of {where} is not finite")
        view.bill(cost)
        for name, part in parted(whole, use).items():
            state[f"query:{name}"] = part
            del gradients[name]  # so that queries are not held twice
    return state


def network_flops(view: View, uses: list[Use], rows: Batch) -> float:
    """Return FLOPs of a row's forward and backward pass, counted on the first row, and bill it."""
    with counter() as counted:
        backward(view.model, rows.select(slice(0, 1)), uses, lambda name, factors: None)
    flops = float(counted.get_total_flops())
    view.bill(flops, rows.targets.shape[1])
    return flops


def _gradients(
    view: View, uses: list[Use], query: Batch, weights: Tensor, options: Ekfac
) -> tuple[dict[str, Tensor], float]:
    """Return each parameter's gradients [Q, L, R], and FLOPs beyond the network's."""
    each = len(weights) == len(query.rows) and bool((weights == torch.eye(len(weights))).all())
    gradients: dict[str, Tensor] = {}
    flops, start, room = 0.0, 0, Room()

    def receive(name: str, factors: list[Factors]) -> None:
        nonlocal flops
        (use,) = factors
        rows = slice(start, start + len(use.right))
        if name not in gradients:
            shape = (len(weights), use.size, use.right.shape[-1])
            gradients[name] = torch.zeros(shape, device=use.right.device)
        if each:
            gradients[name][rows], cost = materialised(use, room)
        else:
            value, cost = summed(use, weights[0, rows].to(use.right.device))
            gradients[name][0] += value
        flops += cost

    for chunk in chunks(query, options.chunk_rows, largest(uses)):
        losses = backward(view.model, chunk, uses, receive, "mean", options.precision)
        refuse_non_finite(view, chunk, "loss", losses)
        start += len(chunk.rows)
    for name, gradient in gradients.items():
        if each:
            refuse_non_finite(view, query, name, gradient)
        elif not all_finite(gradient):
            raise FloatingPointError(f"the query gradient of {name} at step {view.step} not finite")
    return gradients, flops
