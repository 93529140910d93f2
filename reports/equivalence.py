"""Test whether a difference is too small to be worth having: two one-sided tests (TOST).

Schuirmann (1987), with exact sign flips instead of t, so that "equivalent" rests on the assumption
that "better" rests on, symmetry, and on no other. The margin is declared in the spec before any
result; without one nothing can be called equivalent, since a difference is never shown to be 0.
"""

from __future__ import annotations

import math

import numpy as np

from reports.stats import upper_tail


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """Return the p of "the mean difference is at least `margin` away from 0", [n] bits per byte.

    The larger of the two one-sided sign-flip p values, against a mean of `margin` or more and of
    `-margin` or less. Both must be rejected, so the larger one needs no correction for there being
    two (Berger 1982). Its floor is 2^-n. A margin that is not above 0 is a ValueError.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be above 0 and finite, not {margin}")
    values = np.asarray(differences, dtype=np.float64)
    return max(upper_tail(margin - values), upper_tail(margin + values))
