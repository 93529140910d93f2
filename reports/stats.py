"""Measure paired differences: mean, t interval, exact sign-flip p, Holm's correction.

The headline is the mean paired difference with its t interval; verdict words come from exact
sign-flip permutation tests (reports/verdicts.py), which assume that differences are symmetric about
their mean, and no normality. Their price is a floor: with n seeds no two-sided p is below 2^(1-n).
Sign everywhere: difference = arm - baseline in bits per byte, so a negative one is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from reports.power import smallest_p

_MAX_EXACT = 40  # two halves of 2^20 sums each: a second and 16 MB
_DRAWS, _CHUNK = 100_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Differences arm - baseline over the seeds that both have; negative is better."""

    differences: dict[int, float]
    """Seed to difference."""
    mean: float
    sd: float
    """Sample standard deviation of the differences; NaN for one pair."""
    low: float
    high: float
    """Two-sided 95 % t interval of the mean, not corrected for the family; NaN for one pair."""

    @cached_property  # most pairs are never tested, and many seeds take a while
    def p(self) -> float:
        """Exact two-sided sign-flip permutation p."""
        return sign_flip_p(self.values)

    @property
    def num_pairs(self) -> int:
        """Seeds that both arms have."""
        return len(self.differences)

    @property
    def values(self) -> np.ndarray:
        """The differences [num_pairs], in the order of the seeds."""
        return np.array(list(self.differences.values()))

    @property
    def smallest_p(self) -> float:
        """The smallest p that this many pairs could have given."""
        return smallest_p(self.num_pairs)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Paired:
    """Compare two arms over their common seeds; a value that is not finite is a ValueError."""
    seeds = sorted(set(arm) & set(baseline))
    if not seeds:
        raise ValueError("the two arms share no seed; a paired difference needs at least one")
    differences = {seed: float(arm[seed]) - float(baseline[seed]) for seed in seeds}
    for seed, value in differences.items():
        if not math.isfinite(value):
            raise ValueError(f"the difference at seed {seed} is {value}; drop or repair that run")
    values = np.array(list(differences.values()))
    mean, low, high = t_interval(values)
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Paired(differences=differences, mean=mean, sd=sd, low=low, high=high)


def t_quantile(freedom: float, confidence: float = 0.95) -> float:
    """Return the half-width, in standard errors, of a two-sided t interval."""
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of the two-sided t interval; one value has no interval (NaN)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    standard_error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = t_quantile(len(values) - 1, confidence) * standard_error
    return mean, mean - half, mean + half


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the exact two-sided p of the mean under flipping signs.

    The negation of every sign pattern is a pattern too, so one tail is counted and doubled.
    """
    values = _finite(differences)
    total = float(values.sum())
    if abs(total) <= _rounding(values):
        return 1.0
    return min(1.0, 2 * upper_tail(math.copysign(1, total) * values))


def upper_tail(values: np.ndarray) -> float:
    """Return the one-sided sign-flip p against means of 0 or below: small where values are high.

    The share of sign patterns whose sum is at least the observed one, all of them up to 40 values:
    sums over two halves are met in the middle, so n values cost 2^(n/2) and not 2^n. Beyond,
    100,000 patterns are drawn with a fixed seed and the observed one is counted among them, as
    scipy's permutation_test does, at a tenth of its time.
    """
    values = _finite(values)
    if len(values) > _MAX_EXACT:
        generator, reached = np.random.default_rng(0), 1
        observed = float(values.sum()) - _rounding(values)
        for _ in range(_DRAWS // _CHUNK):
            signs = 2.0 * generator.integers(0, 2, (_CHUNK, len(values))) - 1
            reached += int((signs @ values >= observed).sum())
        return reached / (_DRAWS + 1)
    # Equal sums reached in another order differ in the last bits; they must count as equal.
    observed = float(values.sum()) - _rounding(values)
    left = _signed_sums(values[: len(values) // 2])
    right = np.sort(_signed_sums(values[len(values) // 2 :]))
    tail = len(right) - np.searchsorted(right, observed - left, side="left")
    return float(int(tail.sum()) / 2 ** len(values))


def _rounding(values: np.ndarray) -> float:
    return 1e-10 * float(np.abs(values).sum())


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, not {values.tolist()}")
    return values


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's (1979) adjusted p of each member of a family, under any dependence."""
    if not all(0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p values must be in [0, 1], not {dict(p_values)}")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
