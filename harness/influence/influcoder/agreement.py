"""How far two rankings agree, and on which rows that may be asked.

Ties take their mean rank, as rounding would otherwise break them and a bag of words has many; a
ranking that says the same of all rows agrees with nothing, 0, where the formula is 0 / 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

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


def spearman(scores: Tensor, truth: Tensor) -> float:
    """Return the correlation of ranks [N]; 0 where either has no order at all."""
    from scipy.stats import rankdata

    ranks = [torch.from_numpy(rankdata(x.detach().cpu().double().numpy())) for x in (scores, truth)]
    one, other = (rank - rank.mean() for rank in ranks)
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else 0.0


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
