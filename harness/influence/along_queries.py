"""Scores along a few preconditioned queries by finite differences: one forward pass per row.

A preconditioned direction is flat, so its step is larger than a gradient's; it is checked on rows
of the pool, which the fitted state carries, so that a score depends on no other row scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Batch
from harness.influence.directional import checked_step, derivative, norm, row_losses
from harness.influence.finite import refuse_non_finite

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Direction, Note, State, View
    from harness.influence.row_gradients import Reduction

# A step that disagrees by more with the next smaller one, as a share of the scores, is not used
# where the exact form may take its place.
TRUSTED = 0.05
FIELDS = ("inputs", "targets", "mask", "domains", "rows")


def as_state(rows: Batch, prefix: str) -> State:
    """Return rows as tensors of a state."""
    return {f"{prefix}_{name}": getattr(rows, name).clone() for name in FIELDS}


def from_state(state: State, prefix: str, device: torch.device | str = "cpu") -> Batch:
    """Return the rows again, where `device` is: a state that was saved comes back on the CPU."""
    return Batch(*(state[f"{prefix}_{name}"].to(device) for name in FIELDS))


def check_rows(rows: Batch, count: int) -> State:
    """Return rows spread over the pool, to check a step on."""
    spread = torch.linspace(0, len(rows.rows) - 1, min(count, len(rows.rows))).long()
    return as_state(rows.select(spread.to(rows.rows.device)), "check")


def steps(view: View, fitted: State, found: State, exact_instead: bool) -> State:
    """Return `eps` [Q, 3]: each query's step, its relative length, and its disagreement.

    With `exact_instead`, nothing where a query has no length or no step to be trusted.
    """
    device = next(view.model.parameters()).device
    rows, chosen = from_state(fitted, "check", device), []
    for query in range(len(found["norms"])):
        along = _along(found, query, view)
        if exact_instead and not norm(along) > 0:
            return {}
        step = checked_step(view, rows, along)
        if exact_instead and step.disagreement > TRUSTED:
            return {}
        chosen.append([step.eps, step.relative, step.disagreement])
    return {"eps": torch.tensor(chosen, dtype=torch.float64)}


def score_along(
    view: View, prepared: State, rows: Batch, base: Tensor | None, reduction: Reduction
) -> Tensor:
    """Return [N, Q] float64; `base` [N] are the rows' mean losses where they are known."""
    base = row_losses(view, rows, {}, 0.0) if base is None else base
    columns = []
    for query, (eps, _, _) in enumerate(prepared["eps"].tolist()):
        along = _along(prepared, query, view)
        columns.append(derivative(view, rows, along, eps, base=base))
        refuse_non_finite(view, rows, "a finite difference", columns[-1])
    total = torch.stack(columns, 1)  # [N, Q]
    return total * rows.mask.sum(1).double().cpu()[:, None] if reduction == "sum" else total


def _along(prepared: State, query: int, view: View) -> Direction:
    """Return a query's direction, of the chosen parameters alone."""
    return {
        name: prepared[f"query:{name}"][query].view(parameter.shape)
        for name, parameter in view.model.named_parameters()
        if f"query:{name}" in prepared
    }


def told(prepared: State) -> dict[str, Note]:
    """Return each query's relative step and its disagreement, and whether all are to be trusted."""
    if "eps" not in prepared:
        return {}
    _, relative, disagreement = prepared["eps"].T.tolist()
    trusted = int(max(disagreement) <= TRUSTED)
    return {"relative_step": relative, "step_disagreement": disagreement, "trusted": trusted}
