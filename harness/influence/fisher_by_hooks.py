"""Covariances and second moments of row gradients by our own hooks, one pass each.

The same numbers as kronfluence's, for less: the factors of a row's gradient are turned into the
eigenbasis, T (I^2 + O^2), before they are multiplied, T I O, where kronfluence multiplies first and
turns each row's gradient, I O (I + O); whichever is cheaper by count is taken. A covariance is
symmetric, so blocks below the diagonal are not computed. Nothing but sums is held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.influence.factor_health import SIDES, check_covariance
from harness.influence.finite import refuse_non_finite
from harness.influence.fisher import Sampling, with_own_targets
from harness.influence.fisher_flops import BLOCK, turning
from harness.influence.row_gradients import Precision, backward

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View
    from harness.influence.factors import Factors
    from harness.influence.fisher import Pool
    from harness.influence.selection import Use


class Sides(NamedTuple):
    """Both factors of a module's row gradients."""

    gradients: Tensor  # [B, T, O]
    inputs: Tensor  # [B, T, I], without the bias's ones
    bias: bool


Advance = Callable[[int], None]


def unwatched(num_rows: int) -> None:
    """Tell nobody that so many rows are done."""


def covariances(
    view: View,
    uses: list[Use],
    pool: Pool,
    chunk_rows: int,
    dtype: torch.dtype,
    precision: Precision,
) -> State:
    """Return `A:M` [I, I] and `G:M` [O, O], means over tokens of a a^T and g g^T."""
    sums, count = covariance_sums(view, uses, pool, chunk_rows, dtype, precision)
    return {name: total / count for name, total in sums.items()}


def covariance_sums(
    view: View,
    uses: list[Use],
    pool: Pool,
    chunk_rows: int,
    dtype: torch.dtype,
    precision: Precision,
    advance: Advance = unwatched,
) -> tuple[State, int]:
    """Return `A:M` [I, I] and `G:M` [O, O], sums over tokens of a a^T and g g^T, and the tokens."""
    sums: dict[str, Tensor] = {}
    live = torch.ones_like(pool.rows.mask) if pool.live is None else pool.live

    def receive(module: str, sides: Sides, start: int) -> None:
        g, a = sides.gradients.flatten(0, 1).to(dtype), sides.inputs.flatten(0, 1).to(dtype)
        if pool.live is not None:
            there = live[start : start + len(sides.inputs)].flatten()
            g, a = g[there], a[there]
        if f"A:{module}" not in sums:
            sums[f"A:{module}"] = a.new_zeros(a.shape[1] + sides.bias, a.shape[1] + sides.bias)
            sums[f"G:{module}"] = g.new_zeros(g.shape[1], g.shape[1])
        _add_gram(sums[f"G:{module}"], g)
        total = sums[f"A:{module}"]
        _add_gram(total[: a.shape[1], : a.shape[1]], a)
        if sides.bias:
            total[-1, :-1] += a.sum(0)
            total[-1, -1] += len(a)

    _passes(view, uses, pool, chunk_rows, precision, receive, "covariances", advance)
    names = [f"{side}:{use.name}" for use in uses for side in "AG"]
    return {name: _mirrored(_reached(sums, name)) for name in names}, int(live.sum())


def second_moments(
    view: View,
    uses: list[Use],
    pool: Pool,
    chunk_rows: int,
    vectors: State | None,
    precision: Precision,
) -> State:
    """Return `lambda:M` [O, I], the mean over rows of the squared row gradient.

    With `vectors`, in the basis of `A_vec:M` and `G_vec:M`.
    """
    sums = second_moment_sums(view, uses, pool, chunk_rows, vectors, precision)
    count = len(pool.rows.rows)
    return {name: total / count for name, total in sums.items()}


def second_moment_sums(
    view: View,
    uses: list[Use],
    pool: Pool,
    chunk_rows: int,
    vectors: State | None,
    precision: Precision,
    advance: Advance = unwatched,
) -> State:
    """Return the sums over rows, of which `second_moments` are the means."""
    sums: dict[str, Tensor] = {}

    def receive(module: str, sides: Sides, start: int) -> None:
        g, a = sides.gradients.float(), sides.inputs.float()
        if sides.bias:
            a = torch.cat([a, torch.ones_like(a[..., :1])], -1)
        if vectors is None:
            squared = torch.bmm(g.mT, a).square_().sum(0)
        else:
            left, right = (vectors[f"{side}_vec:{module}"].to(g) for side in "GA")
            squared = _rotated(g, a, left, right).square_().sum(0)
        sums[module] = sums[module] + squared if module in sums else squared

    _passes(view, uses, pool, chunk_rows, precision, receive, "lambda", advance)
    return {f"lambda:{use.name}": _reached(sums, use.name) for use in uses}


def _rotated(g: Tensor, a: Tensor, left: Tensor, right: Tensor) -> Tensor:
    factors, gradient = turning(g.shape[1], g.shape[2], a.shape[2])
    if factors <= gradient:
        return torch.bmm((g @ left).mT, a @ right)  # [B, O, I]
    return left.mT @ (torch.bmm(g.mT, a) @ right)


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows [d, d] to the blocks on and below the diagonal."""
    for low in range(0, len(total), BLOCK):
        part = rows[:, low : low + BLOCK].T
        high = low + len(part)
        block = total[low:high, :high]
        torch.addmm(block, part, rows[:, :high], out=block)  # addmm_ is not counted by torch


def _reached(sums: dict[str, Tensor], name: str) -> Tensor:
    if name not in sums:
        module = name.removeprefix("A:").removeprefix("G:")
        raise ValueError(f"the loss does not depend on {module!r}; leave it out of `modules`")
    return sums[name]


def _mirrored(total: Tensor) -> Tensor:
    return total.tril() + total.tril(-1).mT


def _passes(
    view: View,
    uses: list[Use],
    pool: Pool,
    chunk_rows: int,
    precision: Precision,
    receive: Callable[[str, Sides, int], None],
    stage: str,
    advance: Advance = unwatched,
    bad: set[int] | None = None,
) -> None:
    """Call `receive(module, sides, first row)` for each module and chunk of rows.

    A loss that is not finite is refused; given `bad`, its rows are added there instead.
    """
    owners = {use.weight: use for use in uses}
    for start in range(0, len(pool.rows.rows), chunk_rows):
        rows = with_own_targets(pool.rows.select(slice(start, start + chunk_rows)))
        sampling = Sampling(view.model, rows, pool.key)
        model = sampling if pool.labels == "sampled" else view.model

        def arrive(name: str, factors: list[Factors], start: int = start) -> None:
            if name not in owners:
                return  # a bias, which comes with its weight
            use, (one,) = owners[name], factors
            g, a = (one.left, one.right) if use.kind == "linear" else (one.right, one.left)
            receive(use.name, Sides(g, a, bool(use.bias)), start)

        losses = backward(model, rows, uses, arrive, "sum", precision)  # type: ignore[arg-type]
        if bad is None:
            where = f"the loss, stage {stage}, batch {start // chunk_rows}"
            refuse_non_finite(view, rows, where, losses)
        else:
            bad |= _unsound(losses, start)
        advance(len(rows.rows))


def check_covariances(
    view: View, uses: list[Use], pool: Pool, chunk_rows: int, found: State
) -> None:
    """Refuse bad covariances `A:M` and `G:M`, by the row that is to blame where there is one."""
    for name, matrix in found.items():
        side, _, module = name.partition(":")
        try:
            check_covariance(matrix, module, SIDES[side])
        except FloatingPointError:
            refuse_row(view, uses, pool, chunk_rows, "covariances")
            raise


def refuse_row(view: View, uses: list[Use], pool: Pool, chunk_rows: int, stage: str) -> None:
    """Raise FloatingPointError naming the first row whose own part is not finite, if any."""
    found: list[tuple[int, str, Tensor]] = []

    def receive(module: str, sides: Sides, start: int) -> None:
        for what, values in _own_parts(sides).items():
            if not found and _unsound(values, start):
                where = f"the {what} of module {module!r}, stage {stage}"
                found.append((start, f"{where}, batch {start // chunk_rows}", values))

    _passes(view, uses, pool, chunk_rows, "float32", receive, stage)
    for start, where, values in found:  # not in the pass: naming the module takes another
        rows = pool.rows.select(slice(start, start + len(values)))
        refuse_non_finite(view, rows, where, values)


def unsound_rows(view: View, uses: list[Use], pool: Pool, chunk_rows: int) -> list[int]:
    """Return which rows of the pool have a loss or a part of a sum that is not finite.

    In float32: a sum that overflows in a smaller type is to blame on no row.
    """
    bad: set[int] = set()

    def receive(module: str, sides: Sides, start: int) -> None:
        for values in _own_parts(sides).values():
            bad.update(_unsound(values, start))

    _passes(view, uses, pool, chunk_rows, "float32", receive, "mask", bad=bad)
    return sorted(bad)


def _own_parts(sides: Sides) -> dict[str, Tensor]:
    """Return what a row brings to the sums, or what bounds it, by name: [B] or [B, T, ...]."""
    gradients, inputs = sides.gradients.float(), sides.inputs.float()
    squares = {"inputs": inputs.square().sum((1, 2)), "gradients": gradients.square().sum((1, 2))}
    return {
        "inputs": inputs,
        "output gradients": gradients,
        "squared inputs": squares["inputs"],
        "squared output gradients": squares["gradients"],
        "squared row gradient": squares["inputs"] * squares["gradients"],
    }


def _unsound(values: Tensor, start: int) -> set[int]:
    found = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten()
    return {start + row for row in found.tolist()}
