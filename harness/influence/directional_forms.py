"""Which way of taking a directional derivative is right for one direction, by trial on a few rows.

Finite differences cost a forward pass per row, and no step suits every direction: a gradient is
steep, an EKFAC direction flat, and where Adam has hardly seen a gradient a direction has a few huge
components. So steps are tried on candidate rows, off the training stream and the same for every
direction at a step. Where no two steps agree, the exact form takes over, at one and a half times
the price, and in bfloat16 where the run trains in it and scores of those rows come out within
AGREEMENT; the price of the trial is three or four forward passes of the rows, or that of a step.
Where it does not add up, or a module (of experts, say) cannot be differentiated alone, forward mode
does; where that does not know the model either, no form is right, and an error says so.

A GPU's products are fifteen times as fast in bfloat16, by data sheet, and finite differences drown
in it: where a run trains in bfloat16 on a GPU they would be the dear way, so the exact form is
tried first, and they are tried where bfloat16 will not do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.influence.derivatives import (
    COVERED,
    Functional,
    by_forward_mode,
    by_hooks,
    eager_twin,
    plain_product,
    spread_product,
)
from harness.influence.directional import (
    AGREEMENT,
    GRADIENT_STEPS,
    Difference,
    checked_step,
    derivative,
    difference_of,
    unit_step,
)
from harness.influence.flops import billed, counter
from harness.influence.row_gradients import Precision, row_losses
from harness.influence.spread import is_spread

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, View

FORMS = ("one_sided", "central", "central_bfloat16", "vector", "forward", "vector_bfloat16")
BY_HOOKS: dict[str, Precision] = {"vector": "float32", "vector_bfloat16": "bfloat16"}
# The best is near 3e-3: smaller ones drown in the rounding of bfloat16.
BFLOAT16_STEPS = (3e-3, 1e-2, 1e-3)


class Form(NamedTuple):
    """How one direction is scored, and what the trial said."""

    name: str  # one of FORMS
    eps: float = 0.0  # of the finite difference; 0: none
    relative: float = 0.0
    disagreement: float = 0.0  # of the step that was tried last, also where it was not taken
    flops: float = 0.0  # of a row by hooks, counted in the trial; 0 for other forms


def check_rows(view: View, count: int) -> Batch:
    """Return candidate rows of all domains, the same at each call within a step."""
    rows = view.candidates(-(-count // len(view.domains)))
    return rows.select(torch.linspace(0, len(rows.rows) - 1, min(count, len(rows.rows))).long())


def choose_form(
    view: View,
    rows: Batch,
    along: Direction,
    difference: Difference,
    precision: Precision,
    chunk_rows: int,
) -> Form:
    """Return the cheapest form that `rows` show to be right along this direction."""
    unit = unit_step(view, along)  # refuses a direction of no length, whatever comes first
    exact, is_tried = None, has_fast_bfloat16(view)
    if is_tried:
        exact = _by_modules(view, rows, along)
        if exact is not None and exact.name == "vector_bfloat16":
            return exact
    step = checked_step(view, rows, along, difference, GRADIENT_STEPS)
    if not step.disagreement < AGREEMENT:
        exact = exact if is_tried else _by_modules(view, rows, along)
        return (exact or _by_duals(along))._replace(disagreement=step.disagreement)
    form = Form(difference, *step)
    if precision == "float32":
        return form
    wanted = derivative(view, rows, along, step.eps, difference)
    for relative in BFLOAT16_STEPS:
        rough = in_bfloat16(view, rows, along, relative * unit, chunk_rows)
        disagreement = difference_of(rough, wanted)
        if disagreement < AGREEMENT:
            return Form("central_bfloat16", relative * unit, relative, disagreement)
    return form


def _by_modules(view: View, rows: Batch, along: Direction) -> Form | None:
    """Return the form by hooks, unless it is unknown or does not add up to a plain backward pass.

    What a model does with its parameters does not depend on the row, so two of them tell. Every
    second row tells whether bfloat16 will do.
    """
    model, trains_in_half = view.model, view.precision == "bfloat16"
    tried = rows.select(slice(None, None, 2) if trains_in_half else slice(0, 2))
    few = tried.select(slice(0, 2))
    stacked = {name: v[None] for name, v in along.items()}
    with counter() as counted:
        try:
            scores = by_hooks(model, tried, stacked)
        except NotImplementedError:  # torch's, of a module that forward mode does not know
            scores = None
    if scores is None:
        view.bill(float(counted.get_total_flops()), tried.targets.numel())
        return None
    per_row = float(counted.get_total_flops()) / len(tried.rows)
    # its weight gradients cost what the products do
    wanted = (spread_product if _is_spread(along) else plain_product)(model, few, along)
    # all is queued before anything is looked at
    rough = by_hooks(model, tried, stacked, "bfloat16") if trains_in_half else None
    passes = len(few.rows) + len(tried.rows) * (1 + trains_in_half)
    view.bill(passes * per_row, passes * rows.targets.shape[1])
    mine = scores[: len(few.rows)]
    size = float(mine.abs().sum().clamp(min=1e-300))
    if not abs(float(mine.sum() - wanted.sum())) / size < COVERED:
        return None
    half = rough is not None and difference_of(rough, scores) < AGREEMENT
    return Form("vector_bfloat16" if half else "vector", flops=per_row)


def _by_duals(along: Direction) -> Form:
    """Return forward mode, for a model of which modules alone do not give the derivative."""
    if _is_spread(along):
        raise ValueError(
            "the model reads a parameter from outside its module, or has modules that cannot be "
            "differentiated alone, so that no finite difference and no product by modules is right "
            'here with parallel = "fsdp"; use "ddp"'
        )
    return Form("forward")


def _is_spread(along: Direction) -> bool:
    return any(is_spread(v) for v in along.values())


def has_fast_bfloat16(view: View) -> bool:
    """Tell by what the run trains in and on, never by a timing."""
    return view.precision == "bfloat16" and next(view.model.parameters()).is_cuda


def in_bfloat16(view: View, rows: Batch, along: Direction, eps: float, chunk_rows: int) -> Tensor:
    """Return the central difference [N] float64, the network computing in bfloat16."""

    def losses_at(shift: float) -> Tensor:
        moved = {n: p.detach() for n, p in view.model.named_parameters()}
        moved |= {name: moved[name].add(v, alpha=shift) for name, v in along.items()}
        network: Any = Functional(view.model, moved)

        def compute(chunk: Batch) -> Tensor:
            with torch.no_grad(), torch.autocast(chunk.inputs.device.type, torch.bfloat16):
                return row_losses(network, chunk, "mean").double()

        return billed(view, rows, chunk_rows, compute).cpu()

    return (losses_at(eps) - losses_at(-eps)) / (2 * eps)


def in_forward_mode(view: View, rows: Batch, along: Direction, chunk_rows: int) -> Tensor:
    """Return the exact derivative [N] float64, on a twin with attention written out.

    ValueError where torch does not know forward mode of this model: there is no other form then.
    """
    twin = eager_twin(view.model)
    try:
        found = billed(view, rows, chunk_rows, lambda chunk: by_forward_mode(twin, chunk, along))
    except NotImplementedError as error:
        why = str(error).partition("\n")[0].partition(" that does not support it")[0]
        raise ValueError(
            f"directional: {type(view.model).__name__} has no exact form ({why}), which is needed "
            'where no finite difference holds; choose "grad_dot" or "group", of modules by name'
        ) from error
    return found.double().cpu()
