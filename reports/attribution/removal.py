"""What leaving rows out did: their queries' rise beyond random groups, and leave-k-out.

Sign: a rise is a query that became less likely without its rows, so higher is better for the
estimator. Intervals ask for other queries and other random groups, on these training rows and with
these seeds: see reports/attribution/spread.py for what queries share. A rise also has the runs
without any edit in it, the same for all queries; they count as one more draw, as uncertain as the
runs without a random group are among each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reports.attribution.agreement import Estimate, draws, estimate, per_query, resampled
from reports.attribution.spread import clustered, interval, of_draws

Found = dict[str, Any]


class Removed(NamedTuple):
    """What leaving an estimator's top rows out did to their queries, in nats a token."""

    label: str
    rise: Estimate
    beyond: Estimate
    """Beyond what random groups of the same size did to the same queries."""
    distinct: int
    """Different groups of rows among its queries: those that share one count once."""


class Left(NamedTuple):
    """The part removal."""

    rows: list[Removed]
    random: float
    """Mean rise of the same queries without random groups."""
    groups: dict[str, Estimate]
    """Label -> rank correlation over random groups (leave-k-out)."""


def removal(found: Found) -> Left:
    """Return what the part removal says."""
    whole = np.array(found["whole"]).mean(0)  # [Q]
    rises = np.array(found["losses"]).mean(0) - whole  # [G, Q]
    random = [g for g, facts in enumerate(found["groups"]) if facts["kind"] == "random"]
    rows = [_removed(found, label, rises, random) for label in found["sums"]]
    rows.sort(key=lambda row: -row.beyond.value)
    drawn, groups = draws(len(random), rises.shape[1]), {}
    for label, sums in found["sums"].items():
        own = np.array(sums)[random]
        value = float(per_query(own, rises[random]).mean())
        groups[label] = estimate(value, resampled(own, rises[random], drawn), len(random))
    return Left(rows, float(rises[np.ix_(random, found["queries"])].mean()), groups)


def _removed(found: Found, label: str, rises: np.ndarray, random: list[int]) -> Removed:
    """Return what `label` found, of rises [G, Q], of which those of `random` are drawn."""
    own = [
        (g, facts["query"]) for g, facts in enumerate(found["groups"]) if facts["label"] == label
    ]
    rise = np.array([rises[g, q] for g, q in own])
    control = rises[np.ix_(random, [q for _, q in own])]  # [random groups, queries]
    beyond = rise - control.mean(0)
    # equal rows are an equal edit, and so one run
    runs = [tuple(replica[g] for replica in found["run_ids"]) for g, _ in own]
    by_group, distinct = control.mean(1), len(set(runs))
    base = of_draws(by_group, 1)
    others = of_draws(by_group, len(random))
    return Removed(
        label,
        interval(float(rise.mean()), [clustered(rise, runs), base], distinct),
        interval(float(beyond.mean()), [clustered(beyond, runs), others], distinct),
        distinct,
    )
