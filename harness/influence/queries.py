"""What a query is, where a method gives several rows: each of them, their mean, or the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, View

Queries = Literal["each", "mean", "target"]


def query_weights(view: View, query: Batch, queries: Queries) -> Tensor:
    """Return the weight of each query row in each query's loss [Q, rows] float64, rows sum to 1.

    "each" makes every row a query; "mean" makes one of them all; "target" makes one in which a row
    counts by the run's target weight of its domain, shared by that domain's rows. ValueError where
    "target" is given no row of a targeted domain.
    """
    num_rows = len(query.rows)
    if queries == "each":
        return torch.eye(num_rows, dtype=torch.float64)
    if queries == "mean":
        return torch.full((1, num_rows), 1 / num_rows, dtype=torch.float64)
    domains = query.domains.cpu()
    counts = domains.bincount(minlength=len(view.probe_domains))
    weights = view.targets.cpu().double()[domains] / counts[domains]
    if not float(weights.sum()) > 0:
        raise ValueError('queries = "target" needs rows of a target domain; there are none')
    return (weights / weights.sum())[None]
