"""Decide what paired seeds prove, and refuse to decide where they can prove nothing.

The headline is the mean paired difference with its t interval; the verdict word comes from the
exact sign-flip permutation test, which assumes no normality. Its price is a floor: with n seeds no
two-sided p is below 2^(1-n), so five seeds can never reach .05, and a family of methods needs more,
because Holm multiplies the smallest p by the number of methods. A word is given only where some
outcome could have earned the opposite one.
Sign everywhere: difference = arm - baseline in bits per byte, so a negative one is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from reports.power import ALPHA, seeds_needed, smallest_p

_MAX_EXACT = 40  # two halves of 2^20 sums each: a second and 16 MB


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
    p: float
    """Exact two-sided sign-flip permutation p."""

    @property
    def num_pairs(self) -> int:
        """Seeds that both arms have."""
        return len(self.differences)

    @property
    def smallest_p(self) -> float:
        """The smallest p that this many pairs could have given."""
        return smallest_p(self.num_pairs)


class Verdict(NamedTuple):
    """A computed word, its corrected p (NaN where there is none), and the reason in words."""

    word: str
    corrected_p: float
    reason: str


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
    return Paired(
        differences=differences, mean=mean, sd=sd, low=low, high=high, p=sign_flip_p(values)
    )


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of the two-sided t interval; one value has no interval (NaN)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    standard_error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * standard_error
    return mean, mean - half, mean + half


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the exact two-sided p of the mean under flipping signs.

    Counts the sign patterns whose absolute sum is at least the observed one, all of them up to 40
    pairs: sums over two halves are met in the middle, so n pairs cost 2^(n/2) and not 2^n. Beyond,
    100,000 patterns are drawn with a fixed seed and the observed one is counted among them.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, not {values.tolist()}")
    # Equal sums reached in another order differ in the last bits; they must count as equal.
    observed = abs(float(values.sum())) - 1e-10 * float(np.abs(values).sum())
    if observed <= 0:
        return 1.0
    if len(values) > _MAX_EXACT:
        draw = stats.permutation_test(
            (values,), np.sum, permutation_type="samples", n_resamples=99_999, rng=0
        )
        return float(draw.pvalue)
    left = _signed_sums(values[: len(values) // 2])
    right = np.sort(_signed_sums(values[len(values) // 2 :]))
    # The negation of every pattern is a pattern too: count one tail and double it.
    tail = len(right) - np.searchsorted(right, observed - left, side="left")
    return float(2 * int(tail.sum()) / 2 ** len(values))


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


def verdicts(family: Iterable[str], paired: Mapping[str, Paired]) -> dict[str, Verdict]:
    """Judge every declared method on the one primary metric: better, worse or undecided.

    `family` is every method that was declared, also one without a finished pair: it counts with
    p = 1, because leaving a failed arm out of the family would make the others look better.
    """
    names = list(family)
    p_values = {name: paired[name].p if name in paired else 1.0 for name in names}
    floors = {name: paired[name].smallest_p if name in paired else 1.0 for name in names}
    corrected, best = holm(p_values), holm(floors)
    return {
        name: _judge(paired.get(name), corrected[name], best[name], len(names)) for name in names
    }


def _judge(pair: Paired | None, corrected: float, best: float, family: int) -> Verdict:
    if pair is None:
        return Verdict("no verdict", math.nan, "no seed has finished in both arms")
    if best > ALPHA:
        return Verdict("no verdict", math.nan, why_no_verdict(pair.num_pairs, family))
    among = f", corrected for {family} methods (Holm)" if family > 1 else ""
    numbers = f"p = {corrected:.3g}{among}; {pair.num_pairs} paired seeds could reach {best:.3g}"
    if corrected > ALPHA:
        return Verdict("undecided", corrected, f"{numbers}; above {ALPHA:g}, so neither is proven")
    return Verdict("better" if pair.mean < 0 else "worse", corrected, numbers)


def why_no_verdict(num_pairs: int, family: int) -> str:
    """Explain why no outcome at this number of paired seeds could have been a proof."""
    floor = smallest_p(num_pairs)
    seeds = f"{num_pairs} paired seed{'' if num_pairs == 1 else 's'}"
    text = f"with {seeds} the smallest two-sided sign-flip p is 2^(1-{num_pairs}) = {floor:.3g}"
    if floor > ALPHA:
        text += f", which can never reach {ALPHA:g}"
    else:
        text += (
            f"; corrected for {family} methods (Holm) it is {min(1.0, family * floor):.3g}, "
            f"which can never reach {ALPHA:g}"
        )
    return f"{text}; {seeds_needed(family)} paired seeds are the fewest that can"
