"""What fitting and scoring with factors costs beyond the network's own passes, in FLOPs.

Two per multiply-add, as torch counts them: matrix products alone, so no eigendecomposition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from harness.influence.preconditioner import ROTATED

if TYPE_CHECKING:
    from torch import Tensor

    from harness.influence.ekfac import Ekfac
    from harness.influence.fisher import Pool
    from harness.influence.selection import Use

BLOCK = 256  # of a covariance by hooks; smaller matrix products run below a CPU's peak


def fit_flops(uses: list[Use], pool: Pool, options: Ekfac) -> float:
    """Return what factors and the check of their vectors cost beyond the network's passes."""
    tokens, total, once = pool.rows.targets.shape[1], 0.0, 0.0
    rotated = options.strategy in ROTATED
    hooks = options.fitter == "hooks"
    for use in uses:
        out, size = sizes(use)
        size += bool(use.bias)
        once += 2.0 * (out**3 + size**3) * rotated
        if hooks:
            continue  # counted for all modules together, below
        total += 2.0 * tokens * (out**2 + size**2) * rotated
        if options.strategy != "kfac":
            total += 2.0 * tokens * out * size
            total += 2.0 * out * size * (out + size) * rotated
    if hooks:
        total = covariance_flops(uses, tokens) * rotated
        if options.strategy != "kfac":
            total += second_moment_flops(uses, tokens, rotated)
    return total * len(pool.rows.rows) + once


def pairwise_flops(
    uses: list[Use], num_rows: int, num_queries: int, tokens: int, options: Ekfac
) -> float:
    """Return what kronfluence's pairwise path costs beyond the network's passes."""
    total = 0.0
    columns = num_queries if options.queries == "each" else 1
    for use in uses:
        out, size = sizes(use)
        size += bool(use.bias)
        total += 2.0 * tokens * out * size * num_queries
        total += 4.0 * columns * out * size * (out + size) * (options.strategy in ROTATED)
        per_row = min((tokens + columns) * out * size, columns * tokens * out * (size + 1))
        total += 2.0 * num_rows * per_row
    return total


def covariance_flops(uses: list[Use], tokens: int) -> float:
    """Return what `covariances` costs for one row beyond the network's passes."""
    return sum(2.0 * tokens * (_gram_share(o) + _gram_share(i)) for o, i in map(sizes, uses))


def second_moment_flops(uses: list[Use], tokens: int, rotated: bool) -> float:
    """Return the same for `second_moments`."""
    total = 0.0
    for use in uses:
        out, size = sizes(use)
        size += bool(use.bias)
        total += 2.0 * tokens * out * size
        total += 2.0 * min(turning(tokens, out, size)) if rotated else 0.0
    return total


def sizes(use: Use) -> tuple[int, int]:
    """Return a module's O and I, without the bias."""
    weight = cast("Tensor", use.module.weight)
    out, size = weight.shape if use.kind == "linear" else weight.T.shape
    return int(out), int(size)


def turning(tokens: int, out: int, size: int) -> tuple[float, float]:
    """Return the multiply-adds of turning factors, or the gradient."""
    return float(tokens * (out**2 + size**2)), float(out * size * (out + size))


def _gram_share(size: int) -> float:
    return float(
        sum(min(BLOCK, size - low) * min(size, low + BLOCK) for low in range(0, size, BLOCK))
    )
