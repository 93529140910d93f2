"""Say which fraction of a gap an arm closes: 0 is uniform, 1 is the best static mixture found.

What is static or uniform is read from the weights on record, not from a method's name. The oracle
is the arm with the lowest mean of those whose weights never changed within a run, whether they were
written down, searched for or computed before; where that is a method, its own share is 1 because it
is the measure. It is chosen on the seeds that it is compared on, which flatters it: fractions come
out a little too close to 0.
A fraction of a gap that may be 0 can be anything, so none is given unless uniform's gap to the
oracle is told apart from 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import measures, notation
from reports.load import Evidence
from reports.once import once
from reports.stats import Paired, paired_difference, t_quantile

_SAME = 1e-9  # weights that differ by less are the same


class Share(NamedTuple):
    """A fraction of the gap with its 95 % interval; all NaN where there is none."""

    value: float
    low: float
    high: float


class Oracle(NamedTuple):
    """The two ends of the scale and where the arms are on it."""

    uniform: str | None
    best: str | None
    gap: Paired | None
    """best - uniform on the primary metric: negative where there is a gap to close."""
    shares: dict[str, Share]
    """By arm; empty where there is no gap that can be told apart from 0."""
    reason: str
    """Why there are no shares, or ''."""


@once
def oracle(evidence: Evidence) -> Oracle:
    """Place every arm between uniform and the best static mixture, paired by seed."""
    values = measures.by_seed(evidence, evidence.header["primary"])
    static = static_weights(evidence)
    zero = next((arm for arm, weights in static.items() if _is_uniform(weights)), None)
    if zero is None:
        return Oracle(None, None, None, {}, "no arm with uniform weights has finished")
    gaps = {
        arm.label: paired_difference(values[arm.label], values[zero])
        for arm in measures.arms(evidence)
        if arm.label in static
        and not _is_uniform(static[arm.label])
        and set(values[arm.label]) & set(values[zero])
    }
    if not gaps:
        return Oracle(zero, None, None, {}, "no other static mixture has finished")
    best = min(gaps, key=lambda label: gaps[label].mean)
    if not gaps[best].high < 0:
        interval = notation.interval(gaps[best].low, gaps[best].high)
        reason = f"the best static mixture found, {best}, is not told apart from {zero} "
        reason += f"({notation.signed(gaps[best].mean)} {interval or 'at one seed'})"
        return Oracle(zero, best, gaps[best], {}, reason)
    shares = {arm: _share(values[arm], values[zero], values[best]) for arm in values}
    shares |= {zero: Share(0.0, math.nan, math.nan), best: Share(1.0, math.nan, math.nan)}
    return Oracle(zero, best, gaps[best], shares, "")


def static_weights(evidence: Evidence) -> dict[str, np.ndarray]:
    """Return the weights [K] of the arms whose finished runs each kept the same ones throughout.

    Runs of other seeds may have kept others, of which this is the mean. An A/A arm is left out: it
    has another order of data. The baseline comes first.
    """
    runs = measures.main_runs(evidence)
    domains = measures.trained_domains(evidence)
    frame = evidence.weights[evidence.weights["run_id"].isin(runs["run_id"])]
    by_run = frame.groupby(["run_id", "domain"], observed=True)["weight"].agg(["min", "max"])
    found = {}
    for arm in measures.arms(evidence):
        ids = set(runs[runs["arm"] == arm.label]["run_id"])
        own = by_run[by_run.index.get_level_values("run_id").isin(ids)]
        has_other_data = evidence.header["arms"][arm.label].get("data_seed") is not None
        if has_other_data or own.empty or (own["max"] - own["min"]).max() > _SAME:
            continue
        mean = own.groupby("domain", observed=True)["max"].mean()
        found[arm.label] = mean.reindex(domains).to_numpy()
    return found


def _is_uniform(weights: np.ndarray) -> bool:
    return bool(np.abs(weights - 1 / len(weights)).max() < _SAME)


def _share(arm: dict[int, float], zero: dict[int, float], best: dict[int, float]) -> Share:
    table = pd.DataFrame({"arm": arm, "zero": zero, "best": best}).dropna()
    gains = (table["zero"] - table["arm"]).to_numpy()
    gaps = (table["zero"] - table["best"]).to_numpy()
    return ratio_of_means(gains, gaps)


def ratio_of_means(gains: np.ndarray, gaps: np.ndarray, confidence: float = 0.95) -> Share:
    """Return mean(gains) / mean(gaps) of pairs [n] with Fieller's (1954) interval.

    The interval holds every ratio r for which a t test does not reject that the mean of
    gains - r * gaps is 0, so its coverage is that of the t interval. It is bounded where the mean
    gap is told apart from 0; elsewhere, and for fewer than two pairs, there is no number (NaN).
    """
    nothing = Share(math.nan, math.nan, math.nan)
    if len(gaps) < 2:
        return nothing
    covariance = np.cov(gains, gaps) / len(gaps)  # [2, 2], of the two means
    quantile = t_quantile(len(gaps) - 1, confidence) ** 2
    gain, gap = float(np.mean(gains)), float(np.mean(gaps))
    squared = gap**2 - quantile * covariance[1, 1]
    if gap <= 0 or squared <= 0:
        return nothing
    middle = gain * gap - quantile * covariance[0, 1]
    constant = gain**2 - quantile * covariance[0, 0]
    half = math.sqrt(max(0.0, middle**2 - squared * constant))
    return Share(gain / gap, (middle - half) / squared, (middle + half) / squared)
