"""Rank correlations of what was predicted with what came out, and intervals for their means.

A score is the mean over queries of Spearman's correlation over subsets. Its interval draws queries
and subsets anew, both with replacement: it asks for other queries and for other subsets. It is a
percentile interval of keyed draws, the same for all estimators, so that differences between two are
paired. Ranks are of the drawn sample, ties sharing one, as if each draw were ranked by itself.

A mean over queries alone has a t interval: percentile intervals of few values are too short. What
is called shown holds among all labels that stand together (Holm, 5 %), and of fewer than MIN_SHOWN
values nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from reports.power import ALPHA
from reports.stats import holm, t_interval

RESAMPLES = 2000
MIN_SHOWN = 6
"""Queries, subsets or rows that a claim has to rest on."""


class Estimate(NamedTuple):
    """A mean and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float
    p: float = math.nan
    """Two-sided, of no effect; NaN where too little was measured to tell."""

    @property
    def sign(self) -> int:
        """Return 1 where the interval lies above zero, -1 where below, else 0; 0 without a p."""
        return 0 if math.isnan(self.p) else int(self.low > 0) - int(self.high < 0)


def shown(family: Mapping[str, Estimate]) -> dict[str, int]:
    """Return the sign of each estimate that its interval and Holm's corrected p bear out, else 0.

    One that is too small to be told counts with p = 1.
    """
    adjusted = holm({label: 1.0 if math.isnan(e.p) else e.p for label, e in family.items()})
    return {label: e.sign if adjusted[label] <= ALPHA else 0 for label, e in family.items()}


class Draws(NamedTuple):
    """How often each subset and each query is drawn in each resample."""

    subsets: np.ndarray
    """[B, S] counts."""
    queries: np.ndarray
    """[B, Q] counts."""


def draws(num_subsets: int, num_queries: int, resamples: int = RESAMPLES, key: int = 0) -> Draws:
    """Return keyed draws; the same numbers give the same draws."""
    generator = np.random.default_rng(key)
    pair = (generator.multinomial(n, [1 / n] * n, resamples) for n in (num_subsets, num_queries))
    return Draws(*pair)


def spearman(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return rank correlations [B] of two vectors [S] under counts [B, S]; 0 where one is flat."""
    ranks = [weights @ _below(vector).T for vector in (one, other)]  # [B, S]
    total = weights.sum(1, keepdims=True)
    centered = [r - (weights * r).sum(1, keepdims=True) / total for r in ranks]
    product, first, second = (
        (weights * a * b).sum(1)
        for a, b in (centered, (centered[0], centered[0]), (centered[1], centered[1]))
    )
    size = np.sqrt(first * second)
    return np.divide(product, size, out=np.zeros_like(product), where=size > 1e-9 * total[:, 0])


def _below(vector: np.ndarray) -> np.ndarray:
    """Return [S, S]: 1 where the column's value is below the row's, a half where they are equal."""
    below = vector[None, :] < vector[:, None]
    return below + 0.5 * (vector[None, :] == vector[:, None])


def per_query(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return the correlation of each query [Q] of predictions and outcomes, both [S, Q]."""
    once = np.ones((1, len(predicted)))
    pairs = zip(predicted.T, actual.T, strict=True)
    return np.array([spearman(one, other, once)[0] for one, other in pairs])


def resampled(predicted: np.ndarray, actual: np.ndarray, drawn: Draws) -> np.ndarray:
    """Return the mean over drawn queries of the correlation over drawn subsets [B]."""
    pairs = zip(predicted.T, actual.T, strict=True)
    all_of_them = np.stack([spearman(x, y, drawn.subsets) for x, y in pairs], 1)  # [B, Q]
    return (drawn.queries * all_of_them).sum(1) / drawn.queries.sum(1)


def estimate(value: float, resamples: np.ndarray, size: int) -> Estimate:
    """Return a value of `size` subsets with the percentile interval of its resamples, and p.

    The p is twice the share of resamples on the other side of zero, the value's own among them.
    """
    low, high = np.quantile(resamples, [0.025, 0.975])
    tail = min((resamples <= 0).sum(), (resamples >= 0).sum())
    p = min(1.0, 2 * (1 + float(tail)) / (1 + len(resamples)))
    return Estimate(value, float(low), float(high), p if size >= MIN_SHOWN else math.nan)


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean of values [n] with its t interval and the p of a t test; NaN for one."""
    values = np.asarray(values, dtype=float)
    mean, low, high = t_interval(values)
    if len(values) < MIN_SHOWN:
        return Estimate(mean, low, high)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if not error:
        return Estimate(mean, low, high, 0.0 if mean else 1.0)
    tail = float(special.stdtr(len(values) - 1, -abs(mean) / error))
    return Estimate(mean, low, high, 2 * tail)


def ceiling(agreement: float, replicas: int) -> float:
    """Return what a perfect prediction of the expected loss would score against the mean replica.

    Spearman and Brown: the mean of R replicas that agree by r is reliable by R r / (1 + (R - 1) r),
    and correlates with what they have in common by the root of that. NaN where they do not agree.
    """
    if not agreement > 0:
        return math.nan
    return math.sqrt(replicas * agreement / (1 + (replicas - 1) * agreement))
