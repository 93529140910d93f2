"""(F + damping)^-1 applied to a gradient, where F is one of four approximations of the Fisher.

Factors are a flat State, by module: `A_vec:M` [I, I] and `A_val:M` [I] decompose the covariance of
the module's inputs, `G_vec:M` [O, O] and `G_val:M` [O] that of its output gradients, `lambda:M`
[O, I] is the mean over rows of the squared row gradient, in their basis (ekfac) or as it is
(diagonal). A bias is the last of the I inputs, which is always 1.

    ekfac     G_vec [ (G_vec^T X A_vec) / (lambda + damping) ] A_vec^T       arXiv:1806.03884
    kfac      the same with G_val A_val^T for lambda                         arXiv:1503.05671
    diagonal  X / (lambda + damping)
    identity  X

Damping is relative to the mean of the module's own spectrum, or absolute. A row's loss is here the
sum over its counted targets; kfac's spectrum is per token, so an absolute damping means another
thing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from harness.influence.factor_health import eigenvalue_summary, lambda_summary

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Direction, State
    from harness.influence.factor_health import Summary
    from harness.influence.selection import Use

Strategy = Literal["ekfac", "kfac", "diagonal", "identity"]
Unit = Literal["relative", "absolute"]
ROTATED: tuple[Strategy, ...] = ("ekfac", "kfac")


def spectrum(factors: State, module: str, strategy: Strategy) -> Tensor:
    """Return the eigenvalues of a module's block [O, I] float64; rounding below 0 becomes 0."""
    if strategy == "kfac":
        left, right = (factors[f"{side}_val:{module}"].double() for side in "GA")
        return left.clamp(min=0)[:, None] * right.clamp(min=0)
    return factors[f"lambda:{module}"].double()


def damped_inverse(
    factors: State, module: str, strategy: Strategy, damping: float, unit: Unit
) -> Tensor:
    """Return 1 / (spectrum + damping) [O, I] float64."""
    values = spectrum(factors, module, strategy)
    return 1 / (values + absolute(values, damping, unit))


def absolute(values: Tensor, damping: float, unit: Unit) -> float:
    """Return the damping in the spectrum's own unit."""
    return damping * float(values.mean()) if unit == "relative" else damping


def precondition(
    gradient: Tensor, factors: State, module: str, strategy: Strategy, damping: float, unit: Unit
) -> tuple[Tensor, float]:
    """Return the preconditioned gradient [Q, O, I], and FLOPs."""
    if strategy == "identity":
        return gradient, 0.0
    inverse = damped_inverse(factors, module, strategy, damping, unit).to(gradient)
    if strategy == "diagonal":
        return gradient * inverse, 0.0
    left, right = (factors[f"{side}_vec:{module}"].to(gradient) for side in "GA")
    inside = (left.mT @ (gradient @ right)) * inverse
    num_queries, out, size = gradient.shape
    return left @ (inside @ right.mT), 4.0 * num_queries * out * size * (out + size)


def joined(gradients: Direction, use: Use) -> Tensor:
    """Return a module's gradient [Q, O, I], the bias last, from its parameters' own [Q, ...]."""
    weight = gradients[use.weight]
    weight = weight.mT if use.kind == "conv1d" else weight  # [Q, O, I]
    if not use.bias:
        return weight
    bias = gradients[use.bias].reshape(len(weight), -1, 1)
    return torch.cat([weight, bias], dim=-1)


def parted(gradient: Tensor, use: Use) -> dict[str, Tensor]:
    """Return the parameters' gradients, weight [Q, *weight] and bias [Q, 1, O], of a module's."""
    weight = gradient[..., :-1] if use.bias else gradient
    weight = weight.mT if use.kind == "conv1d" else weight
    parts = {use.weight: weight.contiguous()}
    if use.bias:
        parts[use.bias] = gradient[..., -1][:, None].contiguous()
    return parts


def health(
    factors: State, strategy: Strategy, damping: float, unit: Unit
) -> dict[str, dict[str, Summary]]:
    """Return, by module, what is known of each spectrum, and the damping used, as JSON values."""
    table: dict[str, dict[str, Summary]] = {}
    if strategy == "identity":
        return table
    kind = "lambda:" if strategy != "kfac" else "A_val:"
    for module in (key.removeprefix(kind) for key in factors if key.startswith(kind)):
        table[module] = {}
        for side, name in (("A", "inputs"), ("G", "gradients")) if strategy in ROTATED else ():
            rung, ridge = factors[f"{side}_rung:{module}"].tolist()
            values = factors[f"{side}_val:{module}"]
            table[module][name] = eigenvalue_summary(values, int(rung), ridge)
        values = spectrum(factors, module, strategy)
        table[module]["spectrum"] = lambda_summary(values, absolute(values, damping, unit))
    return table
