"""Scores of rows on themselves: each is its own query, so few are prepared at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View


def self_scores(view: View, estimator: Any, fitted: State, rows: Batch, block: int) -> Tensor:
    """Return each row's score with itself as the query [n] float64; `block` at a time."""
    parts = []
    for first in range(0, len(rows.rows), block):
        some = rows.select(slice(first, first + block))
        prepared = estimator.prepare(view, fitted, some)
        parts.append(estimator.score(view, prepared, some).total.diagonal())
    return torch.cat(parts)
