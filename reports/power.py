"""What a number of paired seeds can show, before any has run.

Two limits, told apart because they have different remedies. The floor: no outcome of n seeds has a
two-sided sign-flip p below 2^(1-n), and Holm multiplies the smallest p by the number of methods;
only more seeds, or fewer methods, help. The smallest effect: what the sign-flip test at the level
of Holm's first step finds in four of five repetitions, in units of the standard deviation of the
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
"""How often an effect of the stated size is to be found."""


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
    margin: float | None = None
    """A difference that is not worth having, in bits per byte, as declared; None: not declared."""
    margin_seeds: int | None = None
    """Seeds that find a difference as large as the margin; None where margin or noise is unknown,
    or where it would take more than 100,000."""


def prospects(ablation: Any, out: Path) -> Prospects:
    """Return what the seeds of `ablation` can show; noise is taken from finished runs in `out`."""
    from reports.effects import detectable_effect, seeds_for

    num_seeds, family = len(ablation.seeds), family_size(ablation)
    level, spread, margin = ALPHA / max(family, 1), _spread(ablation, out), ablation.margin
    is_known = margin is not None and not math.isnan(spread)
    return Prospects(
        num_seeds=num_seeds,
        family=family,
        smallest_p=min(1.0, max(family, 1) * smallest_p(num_seeds)),
        effect=detectable_effect(num_seeds, level, POWER),
        spread=spread,
        warning=hopeless(ablation),
        margin=margin,
        margin_seeds=seeds_for(margin, spread, level, POWER) if is_known else None,
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


def _spread(ablation: Any, out: Path) -> float:
    """Return the largest standard deviation of paired differences among the arms, or NaN."""
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
