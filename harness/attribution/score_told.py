"""Scores that do not fit float32, in words: how many, and of the first query, row and module."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution.store import SELF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.api import Batch
    from harness.attribution.score_passes import Scorer

FLOAT32 = float(np.finfo(np.float32).max)


def unfit(array: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where there is no number, or one that float32 cannot hold."""
    found: NDArray[np.bool_] = ~(np.abs(array) <= FLOAT32)  # NaN compares false
    return found


def told(scorer: Scorer, estimator: Any, rows: Batch, name: str, array: NDArray[np.float64]) -> str:
    """Say how many scores of `rows` are unfit, and of the first: query, row, value and module."""
    bad = unfit(array)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    one = rows.select(slice(first[0], first[0] + 1))
    what = {SELF: "scores of rows on themselves"}.get(name, "scores")
    row, query, module = scorer.describe(one), "", ""
    if name != SELF:
        query = f"query {scorer.queries.names[scorer.kept()[first[1]]]!r}, "
        module = _module(scorer, estimator, one, first[1])
    value = array[first]
    size = f"{value:.3g} does not fit float32" if np.isfinite(value) else f"is {value}"
    return f"{int(bad.sum())} of {bad.size} {what} not finite: {query}{row} {size}{module}"


def _module(scorer: Scorer, estimator: Any, row: Batch, query: int) -> str:
    if not scorer.detail and estimator.kind not in ("grad_dot", "grad_cos", "ekfac"):
        return ""
    try:
        by = replace(estimator, detail=("modules",))
        found = by.score(scorer.view, scorer.state(estimator), row)
    except (FloatingPointError, ValueError):
        return ""
    if found.modules is None:
        return ""
    part = found.modules[0, query].abs().nan_to_num(nan=float("inf"))
    names = str(found.about["module_names"]).split(" ")
    return f", most of it in module {names[int(part.argmax())]}"
