"""The gradient of one row by one parameter as a sum over tokens of outer products, and its dots.

Shapes: B rows, T tokens of a row, Q queries, S tokens of a query; a parameter is L x R. With
left_bt in R^L and right_bt in R^R the gradient is G_b = sum_t left_bt right_bt^T. FLOPs of its dot
products with Q queries, two per multiply-add:

    materialise  G = bmm(left^T, right) [B, L, R], then [B, LR] x [LR, Q]    2 B L R (T + Q)
    vector       (left [BT, L] x query [L, R]) * right, for each query       2 B T Q L R
    ghost        sum_ts (left_bt . left_qs)(right_bt . right_qs)             2 B Q T S (L + R)

The first is cheapest for many queries; the second, which writes no [B, L, R], for one; the third
needs the queries as factors and pays for short rows. Queries of low rank are factors too, S = rank,
and are made whole a few at a time where that is cheaper. An embedding's left is one-hot: its G is
never formed for a dot product, the query's vectors are looked up instead, 2 B Q T R.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


# Numbers of queries of low rank that are whole at once (128 MiB of float32).
UNFOLDED = 2**25


class Factors(NamedTuple):
    """What a module contributes to its parameter's gradient in each row."""

    left: Tensor  # [B, T, L], or [B, T] int64: one-hot
    right: Tensor  # [B, T, R]
    size: int  # L

    @property
    def one_hot(self) -> bool:
        """Tell whether left holds indices."""
        return self.left.ndim == 2


class Room:
    """Memory for one parameter's row gradients, taken once and written over by the next.

    Fresh memory for each would cost a page fault per 4 KiB, a tenth of the pass. There is one
    place of each type of numbers.
    """

    def __init__(self) -> None:
        """Start with none; a place grows to the largest that is asked for."""
        self._flat: dict[torch.dtype, Tensor] = {}

    def of(self, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor of that shape, on the device of `like`, with anything in it."""
        count, dtype = math.prod(shape), dtype or like.dtype
        flat = self._flat.get(dtype)
        if flat is None or flat.numel() < count:
            flat = self._flat[dtype] = like.new_empty(count, dtype=dtype)
        return flat[:count].view(shape)


class Products(NamedTuple):
    """Dot products with queries, and the gradients' own squares if asked for."""

    dots: Tensor  # [B, Q]
    squares: Tensor | None  # [B]
    flops: float


def materialised(factors: Factors, room: Room | None = None) -> tuple[Tensor, float]:
    """Return G [B, L, R] and its FLOPs, 2 B T L R; an embedding scatters instead.

    Given a room, the next call with it writes over G.
    """
    left, right, size = factors
    (num_rows, tokens, width) = right.shape
    if not factors.one_hot:
        out = room.of((num_rows, size, width), right) if room else None
        return torch.bmm(left.mT, right, out=out), 2.0 * num_rows * tokens * size * width
    gradient = right.new_zeros(num_rows * size, width)
    offset = torch.arange(num_rows, device=left.device)[:, None] * size
    gradient.index_add_(0, (left + offset).flatten(), right.flatten(0, 1))
    return gradient.view(num_rows, size, width), 0.0


def _flat(gradient: Tensor, dtype: torch.dtype, room: Room | None) -> Tensor:
    """Return G as [B, L R] in the type that products are taken in."""
    flat = gradient.flatten(1)
    if room is None or flat.dtype == dtype:
        return flat.to(dtype)
    return room.of(tuple(flat.shape), flat, dtype).copy_(flat)


def summed(factors: Factors, shares: Tensor | None = None) -> tuple[Tensor, float]:
    """Return sum_b shares_b G_b [L, R] in float32 at least, and its FLOPs; shares are [B], or 1.

    The product is taken, and rounded, as the factors are. Shares go into a factor in float32: one
    that is rounded to bfloat16 would be off by the same amount for all of its row.
    """
    left, right, size = factors
    dtype, exact = right.dtype, torch.promote_types(right.dtype, torch.float32)
    if shares is not None:
        right = right.to(exact) * shares[:, None, None].to(exact)
    if factors.one_hot:
        total = right.new_zeros(size, right.shape[-1], dtype=exact)
        return total.index_add_(0, left.flatten(), right.flatten(0, 1).to(exact)), 0.0
    flops = 2.0 * right.shape[0] * right.shape[1] * size * right.shape[2]
    if size == 1:  # a bias: hardly a product
        dtype = exact
    return (left.flatten(0, 1).to(dtype).T @ right.flatten(0, 1).to(dtype)).to(exact), flops


def prefers_ghost(factors: Factors, num_queries: int) -> bool:
    """Tell whether queries as long as these rows are better kept as factors."""
    _, tokens, width = factors.right.shape
    ghost = num_queries * tokens * tokens * (factors.size + width)
    held = factors.size * width * min(tokens + num_queries, tokens * num_queries)
    return not factors.one_hot and ghost < held


def products(
    uses: list[Factors],
    query: Tensor | Factors,
    scale: Tensor | None,
    squares: bool,
    room: Room | None = None,
) -> Products:
    """Return dots and squares of one parameter's gradients, by the cheapest form that gives both.

    `query` is [Q, L, R], or the queries' factors; `uses` are the modules that share the parameter.
    Squares are of scale * G, which is the reason to form G where `scale` is given.
    """
    if isinstance(query, Factors):
        if _unfolding_pays(uses, query, squares, scale):
            return _unfolded(uses, query, scale, squares, room)
        dots, flops = _ghost(uses[0], query)
        return _with_squares(uses[0], dots, flops) if squares else Products(dots, None, flops)
    if squares and (len(uses) > 1 or scale is not None):
        return _materialised_products(uses, query, scale, squares, room)
    parts = [_of_one_use(use, query, squares, room) for use in uses]
    total = sum((part.dots for part in parts[1:]), parts[0].dots)
    return Products(total, parts[0].squares, sum(part.flops for part in parts))


def _of_one_use(use: Factors, query: Tensor, squares: bool, room: Room | None) -> Products:
    num_rows, tokens, width = use.right.shape
    per_row = 2.0 * use.size * width
    if use.one_hot:
        dots, flops = _looked_up(use, query)
        return _with_squares(use, dots, flops) if squares else Products(dots, None, flops)
    vector = per_row * tokens * len(query) + 2.0 * squares * tokens**2 * (use.size + width)
    if use.size == 1 or vector >= per_row * (tokens + len(query)):  # a bias is its own gradient
        return _materialised_products([use], query, None, squares, room)
    # in what the network computed in: float32 is fifteen times as dear on a GPU, by data sheet
    left, right = use.left.flatten(0, 1).to(use.right.dtype), use.right.to(query.dtype)
    columns = [((left @ q.to(left.dtype)).view_as(right) * right).sum((1, 2)) for q in query]
    flops = per_row * num_rows * tokens * len(query)
    dots = torch.stack(columns, 1)
    return _with_squares(use, dots, flops) if squares else Products(dots, None, flops)


def _materialised_products(
    uses: list[Factors],
    query: Tensor,
    scale: Tensor | None,
    squares: bool,
    room: Room | None,
) -> Products:
    gradient, flops = materialised(uses[0], room)
    for use in uses[1:]:
        more, cost = materialised(use)
        gradient, flops = gradient.add_(more), flops + cost
    flat = _flat(gradient, query.dtype, room)
    dots = (query.flatten(1) @ flat.T).T  # a CPU's product of few rows is slower the other way
    flops += 2.0 * flat.numel() * len(query)
    if not squares:
        return Products(dots, None, flops)
    scaled = flat if scale is None else flat.mul_(scale.flatten())  # G is nobody else's
    return Products(dots, torch.linalg.vector_norm(scaled, dim=1).square(), flops)


def _unfolding_pays(
    uses: list[Factors], query: Factors, squares: bool, scale: Tensor | None
) -> bool:
    """Tell whether queries kept as factors, of low rank, are better made whole for these rows."""
    if len(uses) > 1 or uses[0].one_hot or (squares and scale is not None):
        return True  # what the pairs of one module's vectors do not give
    (num_rows, tokens, width), (num_queries, length, _) = uses[0].right.shape, query.right.shape
    pairs = num_rows * num_queries * tokens * length * (uses[0].size + width)
    once = num_rows * tokens + num_queries * (num_rows + length)
    return once * uses[0].size * width < pairs


def _unfolded(
    uses: list[Factors],
    query: Factors,
    scale: Tensor | None,
    squares: bool,
    room: Room | None,
) -> Products:
    """Form G once, then queries whole, as many at a time as UNFOLDED numbers hold."""
    gradient, flops = materialised(uses[0], room)
    for use in uses[1:]:
        more, cost = materialised(use)
        gradient, flops = gradient.add_(more), flops + cost
    flat = _flat(gradient, query.right.dtype, room)
    block, columns = max(1, UNFOLDED // flat.shape[1]), []
    for first in range(0, len(query.right), block):
        left, right = query.left[first : first + block], query.right[first : first + block]
        columns.append(flat @ torch.bmm(left.mT, right).flatten(1).T)
    num_queries, length, _ = query.right.shape
    flops += 2.0 * flat.shape[1] * num_queries * (len(flat) + length)
    dots = torch.cat(columns, 1)
    if not squares:
        return Products(dots, None, flops)
    scaled = flat if scale is None else flat.mul_(scale.flatten())
    return Products(dots, torch.linalg.vector_norm(scaled, dim=1).square(), flops)


def _looked_up(use: Factors, query: Tensor) -> tuple[Tensor, float]:
    rows = [
        query[:, left].flatten(1) @ right.to(query.dtype).flatten()[:, None]  # [Q, T R] x [T R, 1]
        for left, right in zip(use.left, use.right, strict=True)
    ]
    return torch.cat(rows, 1).T, 2.0 * use.right.numel() * len(query)


def _ghost(use: Factors, query: Factors) -> tuple[Tensor, float]:
    (num_rows, tokens, width), (num_queries, length, _) = use.right.shape, query.right.shape
    columns = []
    for left, right in zip(query.left, query.right, strict=True):  # [S, L], [S, R]: T x S at a time
        pairs = (use.left.to(left.dtype).flatten(0, 1) @ left.T) * (
            use.right.to(right.dtype).flatten(0, 1) @ right.T
        )
        columns.append(pairs.view(num_rows, -1).sum(1))
    flops = 2.0 * num_rows * num_queries * tokens * length * (use.size + width)
    return torch.stack(columns, 1), flops


def _with_squares(use: Factors, dots: Tensor, flops: float) -> Products:
    """Add |G_b|^2 = sum_ts (left_bt . left_bs)(right_bt . right_bs), 2 B T^2 (L + R)."""
    right = use.right.to(dots.dtype)
    num_rows, tokens, width = right.shape
    flops += 2.0 * num_rows * tokens**2 * width
    between = torch.bmm(right, right.mT)
    if use.one_hot:
        same = use.left[:, :, None] == use.left[:, None, :]
        return Products(dots, (between * same).sum((1, 2)), flops)
    left = use.left.to(dots.dtype)
    flops += 2.0 * num_rows * tokens**2 * use.size
    return Products(dots, (between * torch.bmm(left, left.mT)).sum((1, 2)), flops)
