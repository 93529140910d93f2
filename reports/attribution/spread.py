"""Intervals of means over values that are not independent, since they share runs.

Where several queries have lost the same rows, one run was trained for all of them, and its noise is
in each: they are one cluster, and the variance of the mean is that of the clusters' sums. What all
values share, such as random groups that each is compared with, is in no difference between them;
its variance is estimated from its own draws and added. Degrees of freedom are Welch and
Satterthwaite's. With a cluster for each value and nothing shared this is the t interval.

Its price: what one query and one random group make of each other counts in both terms, so that the
interval is a little long where queries are few. Runs that share some removed rows, but not all, are
trained apart and count as apart: the training set is fixed here, and other queries are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from reports.attribution.agreement import MIN_SHOWN, Estimate
from reports.stats import t_quantile


class Part(NamedTuple):
    """A part of a mean's variance, and the degrees of freedom that it is estimated with."""

    variance: float
    freedom: float


def clustered(values: np.ndarray, clusters: Sequence[Hashable]) -> Part:
    """Return the variance of the mean of values [n], each of a cluster; NaN for one cluster.

    It is right on average where values of a cluster differ by nothing but their noise in common,
    and otherwise a little large. The degrees of freedom are those of as many equal clusters as
    would be worth these: n^2 / (sum of squared sizes), less one.
    """
    values = np.asarray(values, dtype=float)
    distinct = {own: i for i, own in enumerate(dict.fromkeys(clusters))}
    if len(distinct) < 2:
        return Part(math.nan, 0)
    places = [distinct[own] for own in clusters]
    sums = np.bincount(places, values - values.mean()) / len(values)
    shares = np.bincount(places) / len(values)
    second, third = float((shares**2).sum()), float((shares**3).sum())
    # what the squares of the sums are on average, in units of the mean's variance
    expected = 1 - 2 * third / second + second
    return Part(float((sums**2).sum()) / expected, 1 / second - 1)


def of_draws(draws: np.ndarray, used: int) -> Part:
    """Return the variance of the mean of `used` draws, estimated from draws [n], n at least 2."""
    return Part(float(np.var(draws, ddof=1)) / used, len(draws) - 1)


def interval(mean: float, parts: Sequence[Part], size: int) -> Estimate:
    """Return a mean of `size` clusters with its t interval and p; NaN where a part is unknown."""
    total = sum(part.variance for part in parts)
    if math.isnan(total):
        return Estimate(mean, math.nan, math.nan)
    if not total:
        return _judged(Estimate(mean, mean, mean, 0.0 if mean else 1.0), size)
    freedom = total**2 / sum(p.variance**2 / p.freedom for p in parts)
    error = math.sqrt(total)
    half = error * t_quantile(freedom)
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return _judged(Estimate(mean, mean - half, mean + half, p), size)


def _judged(found: Estimate, size: int) -> Estimate:
    return found if size >= MIN_SHOWN else found._replace(p=math.nan)
