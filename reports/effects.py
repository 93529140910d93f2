"""Say how large an effect the verdict's own test finds, and how many seeds a wished-for one takes.

The test is the sign-flip test, not the t test, and at few seeds the two differ: at six and a level
of .05 it rejects only where all six differences have one sign. A promise of power computed from t
would not be kept, so up to twelve seeds the effect is that of the sign-flip test itself, from a
fixed set of simulated normal differences; beyond, its levels lie so close that t's is taken.
"""

from __future__ import annotations

import bisect
import math
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from reports.power import smallest_p

_MAX_SIMULATED = 12  # seeds; 2^12 subsets of each draw
_DRAWS = 10_000  # the power at the effect that is returned is right to .004
_CHUNK = 2_000
_QUANTILES = 4000  # the effect of the t test is exact to three digits
_MOST_SEEDS = 100_000


@cache
def detectable_effect(num_pairs: int, level: float, power: float) -> float:
    """Return the mean difference, in sd of the paired differences, found with this power.

    Found: the two-sided sign-flip p is at most `level`, with the sign of the effect. Differences
    are normal. NaN where no outcome of so few pairs reaches the level.
    """
    if smallest_p(num_pairs) > level:
        return math.nan
    if num_pairs > _MAX_SIMULATED:
        return t_effect(num_pairs, level, power)
    return float(np.quantile(_smallest_found(num_pairs, level), power))


def _smallest_found(num_pairs: int, level: float) -> np.ndarray:
    """Return, for each drawn noise [_DRAWS], the effect from which on the test finds it.

    With noise z and effect e, flipping the signs of a subset raises the sum where the subset's
    mean of z is at most -e. At most k = level * 2^(n-1) patterns may do so, the observed one
    counted, so e has to exceed the k-th largest of the subsets' means of -z; -z is drawn.
    """
    patterns = np.arange(1, 2**num_pairs)[:, None] >> np.arange(num_pairs) & 1  # [2^n - 1, n]
    averages = (patterns / patterns.sum(1, keepdims=True)).astype(np.float32).T
    last = len(patterns) - math.floor(level * 2.0 ** (num_pairs - 1))
    noise = np.random.default_rng(0).standard_normal((_DRAWS, num_pairs), np.float32)
    chunks = np.split(noise, _DRAWS // _CHUNK)
    return np.concatenate([np.partition(z @ averages, last, axis=1)[:, last] for z in chunks])


def t_effect(num_pairs: int, level: float, power: float) -> float:
    """Return the effect that a two-sided paired t test finds, in standard deviations."""
    freedom = num_pairs - 1
    bound = float(special.stdtrit(freedom, 1 - level / 2))
    # T = (Z + center) / S, averaged over quantiles of S: scipy's noncentral t can give NaN
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    limits = bound * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)

    def shortfall(effect: float) -> float:
        return float(special.ndtr(effect * math.sqrt(num_pairs) - limits).mean()) - power

    return float(optimize.brentq(shortfall, 0.0, 10 * (bound + 2) / math.sqrt(num_pairs)))


def seeds_for(effect: float, sd: float, level: float, power: float) -> int | None:
    """Return the fewest paired seeds that find a mean difference of `effect` with this power.

    `effect` and `sd`, the standard deviation of paired differences, have one unit, bits per byte;
    `level` is that of one test, the family's divided by its size. None beyond 100,000 seeds.
    """
    if not effect > 0 or not sd >= 0:
        raise ValueError(f"effect must be above 0 and sd at least 0, not {effect} and {sd}")
    numbers = range(2, _MOST_SEEDS + 1)

    def is_found(num_pairs: int) -> bool:  # False where no outcome reaches the level (NaN)
        return detectable_effect(num_pairs, level, power) * sd <= effect

    # More pairs reach finer levels and find smaller effects, so there is one place to find.
    place = bisect.bisect_left(numbers, True, key=is_found)
    return numbers[place] if place < len(numbers) else None
