"""A score taken apart: what each module, and each position of the row, contributes to it.

Dot products of gradients are sums over parameters, so the parts of modules add up to the score. A
parameter's gradient is a sum over positions of outer products, so the parts of positions do too:
position t's is what the modules' inputs and output gradients at t contribute. The loss of a later
token reaches an earlier position through attention, so this is where in the row the gradient
arises, not whose loss it is; that would take a backward pass per token.

The price: parts of modules are free, parts of positions cost 2 B T Q L R operations per parameter
on top, about as much again as the score for few queries and T times the dot products for many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from harness.influence.factors import Factors

if TYPE_CHECKING:
    from torch import Tensor

    from harness.influence.selection import Use

Detail = Literal["modules", "tokens"]


class Gathered(NamedTuple):
    """Dot products of N rows with Q queries, float64 on the CPU, and their parts if asked for."""

    dots: Tensor  # [N, Q]
    squares: Tensor  # [N], of the rows' scaled gradients; 0 unless asked for
    modules: Tensor | None  # [N, Q, M]
    tokens: Tensor | None  # [N, Q, T]

    def over(self, lengths: Tensor) -> Gathered:
        """Return dots and parts divided by lengths [N, Q]; 0 where there is no length."""

        def divided(values: Tensor, by: Tensor) -> Tensor:
            return (values / by).where(by > 0, 0.0)

        return self._replace(
            dots=divided(self.dots, lengths),
            modules=None if self.modules is None else divided(self.modules, lengths[..., None]),
            tokens=None if self.tokens is None else divided(self.tokens, lengths[..., None]),
        )


def joined(parts: list[Gathered]) -> Gathered:
    """Return chunks of rows as one."""
    columns = zip(*parts, strict=True)
    found = [None if column[0] is None else torch.cat(column) for column in columns]
    return Gathered(*found)  # type: ignore[arg-type]


def module_names(uses: list[Use]) -> list[str]:
    """Return the M modules that parts are told of, in the model's order.

    A parameter that several modules share counts for the first of them, so the others have a part
    only where they have a bias of their own.
    """
    return list(dict.fromkeys(_owners(uses).values()))


def _owners(uses: list[Use]) -> dict[str, str]:
    """Return whose each parameter is."""
    owners: dict[str, str] = {}
    for use in uses:
        for parameter in (use.weight, use.bias):
            if parameter:
                owners.setdefault(parameter, use.name)
    return owners


def whole(factors: Factors) -> Factors:
    """Return a bias's factors, given by position, summed over them.

    Of a bias alone: the weight of a single output looks the same, but its left is no ones.
    """
    if factors.left.shape[1] == 1:
        return factors
    return Factors(factors.left[:, :1], factors.right.sum(1, keepdim=True), 1)


def by_token(factors: Factors, query: Tensor | Factors) -> Tensor:
    """Return each position's part of a parameter's dot products [B, T, Q]."""
    left, right = factors.left, factors.right
    if isinstance(query, Factors):
        columns = [
            ((left.to(ql.dtype) @ ql.T) * (right.to(qr.dtype) @ qr.T)).sum(-1)
            for ql, qr in zip(query.left, query.right, strict=True)
        ]
    elif factors.one_hot:
        columns = [(q[left] * right.to(q.dtype)).sum(-1) for q in query]
    else:
        left, right = left.to(query.dtype), right.to(query.dtype)
        columns = [((left @ q) * right).sum(-1) for q in query]
    return torch.stack(columns, -1)


def token_flops(factors: Factors, query: Tensor | Factors) -> float:
    """Return what `by_token` costs."""
    num_rows, tokens, width = factors.right.shape
    if isinstance(query, Factors):
        num_queries, length, _ = query.right.shape
        return 2.0 * num_rows * tokens * num_queries * length * (factors.size + width)
    return 0.0 if factors.one_hot else 2.0 * num_rows * tokens * len(query) * factors.size * width


class Gather:
    """The sums of one chunk of rows."""

    def __init__(
        self, uses: list[Use], detail: tuple[Detail, ...], rows: int, tokens: int, queries: int
    ) -> None:
        """Start at zero."""
        names = module_names(uses)
        self.places = {p: names.index(m) for p, m in _owners(uses).items()}
        self.dots: dict[str, Tensor] = {}
        empty = torch.zeros(rows, queries, dtype=torch.float64)
        self.total = empty
        self.modules = empty[..., None].repeat(1, 1, len(names)) if "modules" in detail else None
        self.tokens = empty[..., None].repeat(1, 1, tokens) if "tokens" in detail else None

    def add(self, name: str, dots: Tensor) -> None:
        """Add a parameter's dot products [B, Q]."""
        self.dots[name] = self.dots[name] + dots if name in self.dots else dots

    def add_tokens(self, factors: list[Factors], query: Tensor | Factors) -> float:
        """Add a parameter's parts by position, where they are asked for; return FLOPs."""
        if self.tokens is None:
            return 0.0
        flops = 0.0
        for one in factors:
            flops += token_flops(one, query)
            parts = by_token(one, query).double().cpu().mT  # [B, Q, T]
            if parts.shape != self.tokens.shape:
                there, wanted = parts.shape[-1], self.tokens.shape[-1]
                raise ValueError(
                    f"a module sees {there} positions of a row of {wanted}; leave out `tokens`"
                )
            self.tokens += parts
        return flops

    def gathered(self, squares: Tensor) -> Gathered:
        """Return the sums."""
        for name, dots in self.dots.items():
            self.total += dots
            if self.modules is not None:
                self.modules[..., self.places[name]] += dots
        return Gathered(self.total, squares, self.modules, self.tokens)
