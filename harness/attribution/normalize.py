"""What scores may be divided by, and what they then mean.

s_iq is the score of row i for query q, s_ii and s_qq are scores on themselves, n counted targets.
Where an estimator takes a row's loss as a sum, everything is first brought to its mean: s_iq / n_i.

    none            s_iq
    per_token       s_iq / n_i where a row's loss is a sum; a mean loss is per token as it is
    cosine          s_iq / sqrt(s_ii s_qq), between -1 and 1: the angle under the preconditioner
    self_influence  s_iq / sqrt(s_ii): how much of row i's effect is on q; loud rows lose their
                    advantage (the l-relative influence of arXiv:2003.11630, equation 7)

A row without any influence on itself has none on others and stays at 0. The sign stays what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMULAS = {
    "none": "score",
    "per_token": "score / counted targets of the row, where its loss is a sum",
    "cosine": "score / sqrt(row's score on itself * query's score on itself)",
    "self_influence": "score / sqrt(row's score on itself)",
}
NEEDS_SELF = ("cosine", "self_influence")
SELF_KINDS = ("grad_dot", "ekfac")  # whose scores on themselves are squares of a length


def divisors(
    how: str,
    reduction: str,
    row_tokens: NDArray[Any],
    query_tokens: NDArray[Any],
    of_rows: NDArray[Any] | None,
    of_queries: NDArray[Any] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what rows [N] and queries [Q] are divided by; 0 means that the score is 0."""
    rows, queries = np.ones(len(row_tokens)), np.ones(len(query_tokens))
    is_sum = reduction == "sum"
    if how == "none":
        return rows, queries
    if is_sum:
        rows = row_tokens.astype(np.float64)
    if how == "per_token":
        return rows, queries
    assert of_rows is not None
    own = of_rows.astype(np.float64) / (row_tokens if is_sum else 1)
    rows = rows * np.sqrt(own.clip(min=0))
    if how == "cosine":
        assert of_queries is not None
        own = of_queries.astype(np.float64) / (query_tokens if is_sum else 1)
        queries = np.sqrt(own.clip(min=0))
    return rows, queries


def divided(
    values: NDArray[Any], rows: NDArray[np.float64], queries: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return values [n, Q, ...] over rows [n] and queries [Q], 0 where either is 0."""
    by = rows[:, None] * queries
    by = by.reshape(by.shape + (1,) * (values.ndim - 2))
    found: NDArray[np.float64] = np.divide(
        values, by, out=np.zeros(values.shape, np.float64), where=by > 0
    )
    return found
