"""What a number of paired seeds can show, before any has run.

Two limits, told apart because they have different remedies. The floor: no outcome of n seeds has a
two-sided sign-flip p below 2^(1-n), and Holm multiplies the smallest p by the number of methods;
only more seeds, or fewer methods, help. The smallest effect: what a paired t test at the level of
Holm's first step finds in four of five repetitions, in units of the standard deviation of the
paired differences; less noise helps too. scipy, slow to import, stays out until an effect is asked
for: the floor is said before every run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

ALPHA = 0.05
"""Level of the family of confirmatory comparisons."""
POWER = 0.8
_QUANTILES = 4000  # the effect is exact to three digits


class Prospects(NamedTuple):
    """What an ablation's seeds can show."""

    num_seeds: int
    family: int
    """Methods tested against the baseline: arms that are neither baseline nor control."""
    smallest_p: float
    """The smallest p after Holm's correction that any outcome can reach."""
    effect: float
    """Smallest detectable mean difference, in standard deviations of the paired differences."""
    spread: float
    """That standard deviation in bits per byte, from finished runs; NaN where there are none."""
    warning: str | None
    """Why no verdict is possible, or None."""


def prospects(ablation: Any, out: Path) -> Prospects:
    """Return what the seeds of `ablation` can show; noise is taken from finished runs in `out`."""
    num_seeds, family = len(ablation.seeds), family_size(ablation)
    return Prospects(
        num_seeds=num_seeds,
        family=family,
        smallest_p=min(1.0, max(family, 1) * smallest_p(num_seeds)),
        effect=detectable_effect(num_seeds, ALPHA / max(family, 1)),
        spread=_spread(ablation, out),
        warning=hopeless(ablation),
    )


def family_size(ablation: Any) -> int:
    """Return how many arms are tested against the baseline."""
    labels = [label for label, arm in ablation.arms.items() if not arm.is_control]
    return len([label for label in labels if label != ablation.baseline])


def smallest_p(num_pairs: int) -> float:
    """Return the smallest two-sided sign-flip p that `num_pairs` pairs can reach."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def seeds_needed(family: int) -> int:
    """Return the fewest paired seeds with which a family of this size can reach a verdict."""
    return math.ceil(1 + math.log2(max(family, 1) / ALPHA))


def hopeless(ablation: Any) -> str | None:
    """Say why no outcome of these seeds can be a verdict, or None where one can."""
    num_seeds, family = len(ablation.seeds), family_size(ablation)
    best = family * smallest_p(num_seeds)
    if family == 0 or best <= ALPHA:
        return None
    seeds = f"{num_seeds} seed{'' if num_seeds == 1 else 's'}"
    tested = f"{family} tested method{'' if family == 1 else 's'}"
    return (
        f"{seeds} and {tested} cannot give a verdict: the smallest corrected p is "
        f"{min(1.0, best):.3g}, above {ALPHA:g}; use {seeds_needed(family)} seeds or more"
    )


def detectable_effect(num_pairs: int, level: float, power: float = POWER) -> float:
    """Return the mean difference, in standard deviations, that a paired t test finds.

    Two-sided at `level`, found with probability `power`; NaN for fewer than two pairs.
    """
    if num_pairs < 2:
        return math.nan
    import numpy as np
    from scipy import optimize, stats

    freedom = num_pairs - 1
    bound = float(stats.t.ppf(1 - level / 2, freedom))
    # T = (Z + center) / S: averaged over quantiles of S, since scipy's noncentral t gives NaN for
    # few pairs, where the center is far out
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    limits = bound * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)

    def shortfall(effect: float) -> float:
        center = effect * math.sqrt(num_pairs)
        found = stats.norm.sf(limits - center) + stats.norm.cdf(-limits - center)
        return float(found.mean()) - power

    return float(optimize.brentq(shortfall, 0.0, 10 * (bound + 2) / math.sqrt(num_pairs)))


def _spread(ablation: Any, out: Path) -> float:
    """Return the largest standard deviation of paired differences among the finished methods."""
    if not (out / "ablations" / f"{ablation.name}.json").exists():
        return math.nan
    from reports.load import load
    from reports.measures import by_seed
    from reports.stats import paired_difference

    values = by_seed(load(out, ablation.name), ablation.primary)
    baseline = values.pop(ablation.baseline, {})
    deviations = [
        paired_difference(arm, baseline).sd
        for arm in values.values()
        if len(set(arm) & set(baseline)) > 1
    ]
    return max(deviations, default=math.nan)
