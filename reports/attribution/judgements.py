"""From what an evaluation has measured to numbers with intervals: one table for each part.

Sign everywhere: higher is better for the estimator, and a gain is a query that became likelier.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from reports.attribution.agreement import (
    MIN_SHOWN,
    Draws,
    Estimate,
    ceiling,
    draws,
    estimate,
    mean_interval,
    per_query,
    resampled,
)

Found = dict[str, Any]
RECALLS = (1, 10, 100)


class Scored(NamedTuple):
    """How an estimator or a baseline did."""

    label: str
    score: Estimate
    gap: Estimate | None
    """To the rival that it is compared with; None for that rival itself."""


class Agreed(NamedTuple):
    """The linear datamodelling score of every label, best first."""

    rows: list[Scored]
    rival: str | None
    """The baseline that scores highest: what every estimator is compared with."""
    agreement: Estimate | None
    """Between replicas; None for one replica."""
    ceiling: float
    queries: dict[str, np.ndarray]
    """Label -> correlation of each query [Q]."""


def datamodelling(found: Found, baselines: list[str]) -> Agreed:
    """Return the scores of the part lds."""
    losses = np.array(found["losses"])  # [R, S, Q]
    actual = -losses.mean(0)
    sums = {label: np.array(own) for label, own in found["sums"].items()}
    drawn = draws(*actual.shape)
    again = {label: resampled(own, actual, drawn) for label, own in sums.items()}
    queries = {label: per_query(own, actual) for label, own in sums.items()}
    means = {label: float(own.mean()) for label, own in queries.items()}
    rival = max((b for b in baselines if b in means), key=means.__getitem__, default=None)
    rows = []
    for label in sorted(means, key=means.__getitem__, reverse=True):
        gap = None
        if rival is not None and label != rival:
            gap = estimate(means[label] - means[rival], again[label] - again[rival], len(actual))
        rows.append(Scored(label, estimate(means[label], again[label], len(actual)), gap))
    agreed = _agreement(losses, drawn)
    best = ceiling(agreed.value, len(losses)) if agreed else float("nan")
    return Agreed(rows, rival, agreed, best, queries)


def _agreement(losses: np.ndarray, drawn: Draws) -> Estimate | None:
    pairs = list(combinations(range(len(losses)), 2))
    if not pairs:
        return None
    value = np.mean([per_query(losses[a], losses[b]).mean() for a, b in pairs])
    again = np.mean([resampled(losses[a], losses[b], drawn) for a, b in pairs], axis=0)
    return estimate(float(value), again, losses.shape[1])


class Patched(NamedTuple):
    """What a step on the top rows did to their query, in nats a token."""

    label: str
    gain: Estimate
    beyond: Estimate
    """Beyond a step on random rows."""


def tail_patch(found: Found) -> list[Patched]:
    """Return the gains of the part tail_patch, best first."""
    control = np.array(found["control"]).mean(0)
    rows = []
    for label, gains in found["gains"].items():
        own = np.array(gains)
        rows.append(Patched(label, mean_interval(own), mean_interval(own - control)))
    return sorted(rows, key=lambda row: -row.gain.value)


class Detected(NamedTuple):
    """How well a ranking finds rows with wrong answers."""

    label: str
    auc: Estimate
    recall: float
    """Of them among as many top rows as there are wrong ones."""
    curve: np.ndarray
    """Share of them among the first 1 .. N rows."""


def mislabelled(found: Found) -> list[Detected]:
    """Return the rankings of the part mislabelled, best first."""
    wrong = np.zeros(found["rows"], dtype=bool)
    wrong[found["wrong"]] = True
    rows = []
    for label, values in found["values"].items():
        own = np.array(values, dtype=float)
        own[np.isnan(own)] = -np.inf  # masked: last
        order = np.argsort(-own, kind="stable")
        curve = np.cumsum(wrong[order]) / wrong.sum()
        recall = float(curve[wrong.sum() - 1])
        rows.append(Detected(label, _auc(own[wrong], own[~wrong]), recall, curve))
    return sorted(rows, key=lambda row: -row.auc.value)


def _auc(wrong: np.ndarray, right: np.ndarray) -> Estimate:
    """Return how often a wrong row lies above a right one, drawing both kinds anew.

    Its p is Mann and Whitney's, of a ranking that does not tell them apart.
    """
    from scipy.stats import mannwhitneyu  # slow to import

    above = (wrong[:, None] > right[None, :]) + 0.5 * (wrong[:, None] == right[None, :])
    drawn = draws(len(wrong), len(right), 1000)
    again = np.einsum("bi,ij,bj->b", drawn.subsets, above, drawn.queries, optimize=True)
    value, low, high, _ = estimate(float(above.mean()), again / above.size, 0)
    if len(wrong) < MIN_SHOWN:
        return Estimate(value, low, high)
    return Estimate(value, low, high, float(mannwhitneyu(wrong, right).pvalue))


class Traced(NamedTuple):
    """How well a label finds the rows that state a fact."""

    label: str
    reciprocal: Estimate
    """Mean reciprocal rank of the first of a fact's rows."""
    recalls: dict[int, Estimate]
    """k -> share of a fact's rows among the first k."""


def planted(found: Found) -> list[Traced]:
    """Return the labels of the part planted, best first."""
    rows = []
    for label, ranks in found["ranks"].items():
        own = np.array(ranks)  # [F, C]
        recalls = {k: mean_interval((own <= k).mean(1)) for k in RECALLS if k < found["rows"]}
        rows.append(Traced(label, mean_interval(1 / own.min(1)), recalls))
    return sorted(rows, key=lambda row: -row.reciprocal.value)
