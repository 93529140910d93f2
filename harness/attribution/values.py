"""What a row is worth: its scores for all queries as one number.

    value = mean over wanted queries of s_iq / sd_q  -  mean over unwanted ones

sd_q is the standard deviation of the query's scores over rows, so that no query speaks louder than
another; several stores are averaged after that. Scores within the threshold asked for, in standard
deviations, count as zero. Unwanted queries show behaviour to be rid of: what lowers their loss is
harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.attribution.matching import matching
from harness.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.store import ScoreStore


def values(
    stores: Sequence[ScoreStore], wanted: Sequence[str] = (), unwanted: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Return each row's value [N]; NaN for rows that were masked.

    `wanted` and `unwanted` are regular expressions of query names.
    """
    names = [query.name for query in stores[0].queries()]
    for_, against = sides(names, wanted, unwanted)
    total = np.zeros(len(stores[0].total))
    for store in stores:
        masked = set(store.masked_queries)
        if len(masked.intersection(for_)) == len(for_) > 0:
            raise SpecError(f"select: every wanted query of {store.label!r} is masked; take others")
        one = _mean(store, [q for q in for_ if q not in masked])
        one -= _mean(store, [q for q in against if q not in masked])
        one[store.masked_rows] = np.nan
        total += one
    found: NDArray[np.float64] = total / len(stores)
    return found


def sides(
    names: Sequence[str], wanted: Sequence[str], unwanted: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the places of wanted and of unwanted queries; SpecError where a pattern finds none."""
    against = matching(names, "unwanted", unwanted, "query")
    rest = [q for q in range(len(names)) if q not in against]
    for_ = matching(names, "queries", wanted, "query") if wanted else rest
    both = sorted(set(for_) & set(against))
    if both:
        raise SpecError(f"select: query {names[both[0]]!r} is wanted and unwanted; choose one")
    return for_, against


def _mean(store: ScoreStore, queries: list[int]) -> NDArray[np.float64]:
    """Return the mean of scaled scores over queries [N]; 0 without any."""
    total, kept = np.zeros(len(store.total)), np.ones(len(store.total), bool)
    kept[store.masked_rows] = False
    for query in queries:  # a column at a time: the array may not fit into memory
        scores = np.asarray(store.total[:, query], np.float64)
        deviation = float(scores[kept].std()) if kept.any() else 0.0
        if deviation > 0:
            counted = np.abs(scores) >= store.threshold * deviation
            total += scores / deviation * counted
    return total / max(1, len(queries))
