"""The shared arithmetic of mixers: simplex and weight checks, domain means, floors and projections.

K domains, B rows. Everything here is float64 on the CPU: mixtures have a handful of entries, and
a weight that is wrong in the seventh digit draws other rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def uniform(num_domains: int) -> Tensor:
    """Return equal weights [K]."""
    return torch.full((num_domains,), 1.0 / num_domains, dtype=torch.float64)


def simplex(weights: Tensor, domains: tuple[str, ...], where: str) -> Tensor:
    """Return `weights` [K] scaled to sum 1; ValueError names `where` and the offending domain."""
    weights = weights.detach().to("cpu", torch.float64)
    if weights.shape != (len(domains),):
        raise ValueError(f"{where}: expected {len(domains)} weights, got {tuple(weights.shape)}")
    for domain, weight in zip(domains, weights.tolist(), strict=True):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{where}: the weight of domain {domain!r} is {weight}")
    total = weights.sum()
    if total <= 0:
        raise ValueError(f"{where}: all weights are zero")
    return weights / total


def row_weights(weights: Tensor, num_rows: int, reweights: bool, where: str) -> Tensor:
    """Return the loss weights [B] as they are; ValueError names `where` and what is wrong."""
    values = weights.tolist()  # a handful of numbers: Python checks them faster than torch
    if weights.shape != (num_rows,) or not all(0 <= v < float("inf") for v in values):
        raise ValueError(f"{where}: bad weights {weights}")
    if not reweights and any(value != 1 for value in values):
        raise ValueError(f"{where} returns weights other than 1; set reweights = True")
    if not any(values):
        raise ValueError(f"{where}: all loss weights are 0")
    return weights


def domain_sums(
    values: Tensor, domains: Tensor, num_domains: int, mask: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of `values` [B] or [B, T] over each domain's entries and their number, [K].

    `mask` ([B, T] bool) tells which entries count. In numpy: a call of it takes a microsecond, one
    of torch's several, and this is in every step.
    """
    order = domains.cpu().numpy()
    rows = values.detach().cpu().numpy().reshape(len(order), -1).astype(np.float64)
    counted = np.ones_like(rows) if mask is None else mask.cpu().numpy().reshape(rows.shape)
    sums = np.bincount(order, (rows * counted).sum(1), num_domains)
    return sums, np.bincount(order, counted.sum(1), num_domains)


def domain_mean(
    values: Tensor, domains: Tensor, num_domains: int, empty: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return the mean of `values` [B] or [B, T] over each domain's entries, [K] float64.

    `mask` ([B, T] bool) tells which entries count; a domain without any gets its entry of `empty`.
    """
    sums, counts = domain_sums(values, domains, num_domains, mask)
    means = torch.from_numpy(sums / np.maximum(counts, 1))
    return torch.where(torch.from_numpy(counts > 0), means, empty.to(torch.float64))


def exponentiated(weights: Tensor, gains: Tensor) -> Tensor:
    """Return weights [K] in proportion to weights * exp(gains), sum 1: what is 0 stays 0."""
    return torch.softmax(weights.log() + gains, 0)


def _check_bounds(num_domains: int, floor: float, cap: float) -> None:
    # a bound of exactly 1/K may be off by a rounding
    if not floor * num_domains <= 1 + 1e-12 or not cap * num_domains >= 1 - 1e-12:
        raise ValueError(f"no mixture of {num_domains} domains lies between {floor} and {cap}")


def bounded(weights: Tensor, floor: float, cap: float) -> Tensor:
    """Return the multiple of `weights` [K] clamped to [floor, cap] that sums to 1.

    Entries between the bounds keep their ratios, so that a floor on one domain is paid by all
    others in proportion. ValueError where no such point exists.
    """
    num_domains = len(weights)
    _check_bounds(num_domains, floor, cap)
    weights = weights / weights.sum()
    if float(weights.min()) >= floor and float(weights.max()) <= cap:
        return weights
    positive = weights.clamp(min=1e-12 * float(weights.max()))  # a zero weight can still be raised
    low, high = 0.0, 1.0 / float(positive.min())
    for _ in range(200):  # bisection on the scale: halving 200 times ends at float64's own spacing
        scale = (low + high) / 2
        total = float((positive * scale).clamp(floor, cap).sum())
        low, high = (scale, high) if total < 1 else (low, scale)
    return (positive * high).clamp(floor, cap)


def projected(point: Tensor, floor: float = 0.0, cap: float = 1.0) -> Tensor:
    """Return the Euclidean projection of `point` [K] onto {floor <= w <= cap, sum w = 1}."""
    num_domains = len(point)
    _check_bounds(num_domains, floor, cap)
    low, high = float(point.min()) - cap, float(point.max()) - floor
    for _ in range(200):  # the sum falls monotonically in tau
        tau = (low + high) / 2
        total = float((point - tau).clamp(floor, cap).sum())
        low, high = (tau, high) if total > 1 else (low, tau)
    return (point - high).clamp(floor, cap)


def standardized(scores: Tensor) -> Tensor:
    """Return z-scores over domains [K]; all zero where the scores do not differ."""
    spread = scores.std(correction=0)
    rounding = 1e-12 * scores.abs().max()  # equal scores may differ from their own mean by an ulp
    return torch.where(spread > rounding, (scores - scores.mean()) / spread.clamp(min=1e-300), 0.0)


def deranged(domains: tuple[str, ...], rng: Callable[[str], torch.Generator]) -> Tensor:
    """Return a permutation [K] that leaves no domain in place, where there are two or more.

    It is one cycle through the domains in an order that is drawn by their names.
    """
    keys = [float(torch.rand(1, generator=rng(f"derange {domain}"))) for domain in domains]
    order = torch.tensor(keys).argsort(stable=True)
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(1)
    return permutation


def min_shifted(scores: Tensor, low: float = 0.01, high: float = 0.9) -> Tensor:
    """Return the weights [K] of seed 000's rule: shift, normalize, clip, normalize again.

    A reproduction, not a recommendation: the lowest domain gets low / (sum of clipped weights)
    whatever the scores are, so that noise looks like a decision. `tests/harness/test_domains.py`
    shows what three domains of pure noise get.
    """
    shifted = scores - scores.min() + 1e-8
    clipped = (shifted / shifted.sum()).clamp(low, high)
    return clipped / clipped.sum()
