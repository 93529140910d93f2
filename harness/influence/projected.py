"""Row gradients as short vectors: projected parameter by parameter inside the backward pass.

A gradient is scaled (by Adam's factor, or not), its exact length is taken, and it is projected
before the next parameter's arrives: at no time is more than a part of one parameter's row gradients
held, whatever the number of rows. Lengths are those before the projection, so that a normalised
vector is the projection of a normalised gradient, as in the code of arXiv:2505.19051.

A query that is a mean over rows is summed up exactly, and projected once.
Shapes: B rows, Q queries, D projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.influence.factors import Factors, materialised, summed
from harness.influence.finite import refuse_non_finite
from harness.influence.flops import billed
from harness.influence.row_gradients import Precision, Reduction, backward

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, View
    from harness.influence.projections import Projection
    from harness.influence.selection import Use

# Numbers of one parameter's row gradients that are formed at once (128 MiB of float32); on a GPU,
# where each call costs as much as so many numbers, 512 MiB.
FORMED, FORMED_GPU = 2**25, 2**27


class Projected(NamedTuple):
    """Gradients made short."""

    vectors: Tensor  # [B, D], on the CPU
    lengths: Tensor  # [B] float64, of the gradients before the projection

    def normalised(self) -> Tensor:
        """Return projections of gradients of length 1 [B, D]; 0 where there is no length."""
        return self.vectors / self.lengths.where(self.lengths > 0, 1.0).to(self.vectors)[:, None]


class Whole:
    """The projection that leaves everything: parameters side by side, for checks."""

    def __init__(self, sizes: dict[str, int]) -> None:
        """Give each named parameter its place."""
        self.places: dict[str, int] = {}
        self.num_dims = 0
        for name, size in sizes.items():
            self.places[name], self.num_dims = self.num_dims, self.num_dims + size

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """Return [B, num_dims], zero outside the parameter's place."""
        flat = gradient.flatten(1)
        whole = flat.new_zeros(len(flat), self.num_dims)
        whole[:, self.places[name] : self.places[name] + flat.shape[1]] = flat
        return whole


@dataclass(frozen=True)
class Recipe:
    """Which gradients are taken, and what is made of them."""

    uses: list[Use]
    projection: Projection
    scale: Direction  # {}: none
    reduction: Reduction
    chunk_rows: int
    precision: Precision = "float32"  # of the network; what becomes of its gradients is float32

    def factor(self, name: str, like: Tensor) -> Tensor | float:
        """Return what a parameter's gradient [B, L, R] is multiplied by."""
        return self.scale[name].view(like.shape[1:]).to(like) if name in self.scale else 1.0


def projected_rows(view: View, rows: Batch, recipe: Recipe) -> Projected:
    """Return the projected gradient of each row's loss; FloatingPointError names row and module."""
    vectors: list[Tensor] = []

    def of_chunk(chunk: Batch) -> Tensor:
        parts = _Parts(view, chunk, recipe)
        how = recipe.reduction, recipe.precision
        losses = backward(view.model, chunk, recipe.uses, parts.receive, *how, together=True)
        refuse_non_finite(view, chunk, "loss", losses)
        parts.refuse_non_finite()
        vectors.append(parts.total.cpu())
        return parts.squares.cpu()

    squares = billed(view, rows, recipe.chunk_rows, of_chunk)
    return Projected(torch.cat(vectors), squares.sqrt())


def projected_means(view: View, rows: Batch, weights: Tensor, recipe: Recipe) -> Projected:
    """Return projected gradients of sum_i weights[q, i] * loss_i; rows without weight are left out.

    FloatingPointError names row and module.
    """
    counted = weights.ne(0).any(0)
    rows, weights = rows.select(counted.to(rows.rows.device)), weights[:, counted]
    gradients: dict[str, Tensor] = {}  # [Q, L, R]
    start = 0

    def of_chunk(chunk: Batch) -> Tensor:
        nonlocal start
        share = weights[:, start : start + len(chunk.rows)].to(chunk.inputs.device)
        start += len(chunk.rows)

        def receive(name: str, factors: list[Factors]) -> None:
            (use,) = factors
            refuse_non_finite(view, chunk, name, use.right)
            sums = torch.stack([summed(use, of_query)[0] for of_query in share])
            gradients[name] = gradients[name] + sums if name in gradients else sums

        how = recipe.reduction, recipe.precision
        losses = backward(view.model, chunk, recipe.uses, receive, *how)
        refuse_non_finite(view, chunk, "loss", losses)
        return losses

    billed(view, rows, recipe.chunk_rows, of_chunk)
    parts = _Parts(view, rows.select(slice(0, len(weights))), recipe)
    for name, gradient in gradients.items():
        parts.add(name, gradient, 0)
    parts.refuse_non_finite()
    return Projected(parts.total.cpu(), parts.squares.sqrt().cpu())


class _Parts:
    """The sums over parameters for one chunk."""

    def __init__(self, view: View, rows: Batch, recipe: Recipe) -> None:
        self.view, self.rows, self.recipe = view, rows, recipe
        self.broken: list[tuple[str, slice, Tensor]] = []
        device = rows.inputs.device
        self.total = torch.zeros(len(rows.rows), recipe.projection.num_dims, device=device)
        self.squares = torch.zeros(len(rows.rows), dtype=torch.float64, device=device)

    def refuse_non_finite(self) -> None:
        """Raise after the pass, so that a loss that is not finite is told of first."""
        for name, place, vectors in self.broken:
            refuse_non_finite(self.view, self.rows.select(place), name, vectors)

    def receive(self, name: str, factors: list[Factors]) -> None:
        """Add a parameter's gradients, some rows at a time."""
        numbers = factors[0].size * factors[0].right.shape[-1]
        group = max(1, (FORMED_GPU if self.rows.inputs.is_cuda else FORMED) // numbers)
        for low in range(0, len(self.rows.rows), group):
            gradient: Tensor | None = None
            for use in factors:
                left, right = use.left[low : low + group], use.right[low : low + group]
                value, _ = materialised(Factors(left, right, use.size))
                value = value.to(torch.promote_types(value.dtype, torch.float32))
                gradient = value if gradient is None else gradient + value
            assert gradient is not None
            self.add(name, gradient, low)

    def add(self, name: str, gradient: Tensor, low: int) -> None:
        """Add gradients [b, L, R] of the rows from `low`."""
        gradient = gradient * self.recipe.factor(name, gradient)
        place = slice(low, low + len(gradient))
        vectors = self.recipe.projection.project(name, gradient)
        if not bool(vectors.isfinite().all()):
            self.broken.append((name, place, vectors))
        self.total = self.total.to(vectors.dtype)
        self.total[place] += vectors
        lengths = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
        self.squares[place] += lengths.square()
