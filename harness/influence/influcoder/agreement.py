"""How far two rankings agree, and on which rows that may be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.influence.fidelity import spearman

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.api import Batch


class Agreement(NamedTuple):
    """Spearman with gradients."""

    per_query: float
    aggregated: float


def agreement(scores: Tensor, truth: Tensor) -> Agreement:
    """Return the agreement of scores [Q, N] with truth [Q, N]."""
    each = [spearman(one, other) for one, other in zip(scores, truth, strict=True)]
    return Agreement(sum(each) / len(each), spearman(scores.mean(0), truth.mean(0)))


def split(count: int, share: float, made: Generator) -> tuple[Tensor, Tensor]:
    """Return a random share of the indices, and the others, both in order."""
    order = torch.randperm(count, generator=made)
    held = round(share * count)
    return order[:held].sort().values, order[held:].sort().values


def unseen(rows: Batch, trained: Tensor) -> Batch:
    """Return the rows that are not among trained [n, 2], by domain and row."""
    known = set(map(tuple, trained.tolist()))
    pairs = zip(rows.domains.tolist(), rows.rows.tolist(), strict=True)
    return rows.select(torch.tensor([pair not in known for pair in pairs]).to(rows.rows.device))
