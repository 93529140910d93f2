"""The exact influence of any row on one direction, by one extra forward pass.

A step of AdamW with its second moments frozen moves parameters by -lr * a * g_i for row i, with
a = (1 - beta1) / (1 - beta1^(t+1)) / (sqrt(v_hat) + eps). To first order a query with gradient g_q
loses lr * <a g_i, g_q> = lr * <g_i, v>, v = a g_q: the derivative of row i's loss along v. So the
preconditioner moves onto v, once, and each row costs one forward at parameters + step * v.

Scores are per unit of learning rate, in nats; positive: training on the row lowers the query's
loss. A row's loss is the mean over its counted tokens. One-sided differences have an error of the
order of the step from curvature, and of its inverse from float32 rounding: the step is checked on
a few rows before it is used. Left out: gradient clipping, momentum and weight decay (the same for
all rows, to first order), and the change that a row makes to the second moments. Source: the Adam
form of arXiv:2505.19051, and torch's AdamW.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, View

# Relative steps |step * v| / |parameters|, largest first. The flat directions of EKFAC want 1e-2 to
# 1e-3, gradient directions 1e-3 to 3e-4: a trial that starts there costs two passes less.
STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
GRADIENT_STEPS = (1e-3, 3e-4, 1e-4)
# Two neighboring steps agree when their scores differ by less than this share of their size. The
# larger one is then 1.4 times that far from the derivative: Spearman above .995 on real text.
AGREEMENT = 0.02
Difference = Literal["one_sided", "central"]


class CheckedStep(NamedTuple):
    """A step length and what the check said of it."""

    eps: float  # multiplies the direction
    relative: float  # |eps * v| / |parameters|
    disagreement: float  # relative difference to the scores at the next smaller step


def adam_scale(view: View) -> Direction:
    """Return Adam's factor of each parameter's gradient at the next step, moments frozen.

    ValueError before the first update, when there are no moments yet.
    """
    scale = {}
    for name, parameter in view.model.named_parameters():
        group, moments = _group_of(view, parameter), view.optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in moments:
            if "betas" not in group:
                kind = type(view.optimizer).__name__
                raise ValueError(
                    f"{kind} keeps no second moments; use AdamW, or preconditioner none"
                )
            raise ValueError(f"{name} has no second moment yet; score after the first update")
        beta1, beta2 = group["betas"]
        taken = float(moments["step"])
        v_hat = moments["exp_avg_sq"] / (1 - beta2**taken)
        scale[name] = (1 - beta1) / (1 - beta1 ** (taken + 1)) / (v_hat.sqrt() + group["eps"])
    return scale


def _group_of(view: View, parameter: Tensor) -> dict[str, Any]:
    for group in view.optimizer.param_groups:
        if any(parameter is member for member in group["params"]):
            return group
    raise ValueError("a parameter of the model is not in the optimizer")


def preconditioned(gradient: Direction, scale: Direction) -> Direction:
    """Return the elementwise product."""
    return {name: gradient[name] * scale[name] for name in gradient}


def weighted_sum(directions: list[Direction], weights: list[float]) -> Direction:
    """Return sum_i weights[i] * directions[i]."""
    names = directions[0]
    pairs = list(zip(directions, weights, strict=True))
    return {name: sum(w * d[name] for d, w in pairs) for name in names}  # type: ignore[misc]


def norm(tensors: Direction) -> float:
    """Return the Euclidean norm over all tensors."""
    return float(
        torch.stack([t.detach().double().square().sum() for t in tensors.values()]).sum().sqrt()
    )


def row_losses(view: View, rows: Batch, along: Direction, eps: float) -> Tensor:
    """Return each row's mean loss [N] float64 at parameters + eps * along; 0 if none counts.

    A parameter that `along` does not name stays where it is.
    """
    losses = view.token_losses(rows, along=_completed(view, along), eps=eps).double()
    return losses.sum(1) / rows.mask.sum(1).clamp(min=1)


def derivative(
    view: View,
    rows: Batch,
    along: Direction,
    eps: float,
    difference: Difference = "one_sided",
    base: Tensor | None = None,
) -> Tensor:
    """Return the derivative of each row's loss along the direction [N] float64, on the CPU.

    `base` is what `row_losses` gives at eps 0, for who has it: one forward pass less.
    """
    ahead = row_losses(view, rows, along, eps).cpu()
    if difference == "central":
        return (ahead - row_losses(view, rows, along, -eps).cpu()) / (2 * eps)
    base = row_losses(view, rows, along, 0.0) if base is None else base
    return (ahead - base.double().cpu()) / eps


def score_rows(view: View, rows: Batch, along: Direction, eps: float) -> Tensor:
    """Return `derivative`; FloatingPointError names the first row whose score is not finite."""
    scores = derivative(view, rows, along, eps)
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        first = int(bad[0])
        domain = view.probe_domains[int(rows.domains[first])]
        row = int(rows.rows[first])
        where = f"row {row} of domain {domain!r} is {float(scores[first])} at step {view.step}"
        raise FloatingPointError(f"influence of {where}")
    return scores


def unit_step(view: View, along: Direction) -> float:
    """Return the eps of relative step 1: |parameters| / |v| over the parameters that v names."""
    length = norm(along)
    if not 0 < length < float("inf"):
        raise FloatingPointError(f"the probe direction has norm {length} at step {view.step}")
    return norm({n: p for n, p in view.model.named_parameters() if n in along}) / length


def checked_step(
    view: View,
    rows: Batch,
    along: Direction,
    difference: Difference = "one_sided",
    steps: tuple[float, ...] = STEPS,
) -> CheckedStep:
    """Choose the largest step whose scores agree with those at the next smaller one on `rows`.

    Where none does, the pair that agrees best is taken, and the disagreement tells of it.
    """
    unit = unit_step(view, along)
    base = row_losses(view, rows, along, 0.0) if difference == "one_sided" else None

    def scores_at(relative: float) -> Tensor:
        return derivative(view, rows, along, relative * unit, difference, base)

    best, scores = None, scores_at(steps[0])
    for relative, smaller in pairwise(steps):
        finer = scores_at(smaller)
        disagreement = difference_of(scores, finer)
        if best is None or not disagreement >= best.disagreement:
            best = CheckedStep(relative * unit, relative, disagreement)
        if disagreement < AGREEMENT:
            break
        scores = finer
    assert best is not None
    return best


def difference_of(scores: Tensor, wanted: Tensor) -> float:
    """Return |scores - wanted| / |wanted|; infinity where a score is not finite."""
    found = float((scores - wanted).norm() / wanted.norm().clamp(min=1e-300))
    return found if found == found else float("inf")


def _completed(view: View, along: Direction) -> Direction:
    """Return the direction with zeros, which take no memory, for parameters that it leaves out."""
    parameters = dict(view.model.named_parameters())
    left_out = {n: p.new_zeros(()).expand(p.shape) for n, p in parameters.items() if n not in along}
    return {**along, **left_out} if left_out else along
