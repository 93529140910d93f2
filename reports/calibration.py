"""`python -m reports.calibration`: how often verdicts are false, and effects found, in simulations.

Differences are normal with a standard deviation of 1; the arms of a family share one baseline, so
their differences are correlated. The same numbers come out every time, in about a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reports.effects import detectable_effect, t_effect
from reports.power import ALPHA, POWER
from reports.stats import Paired, paired_difference, t_interval
from reports.verdicts import Verdict, verdicts

NULLS = 10_000
_BORDER = 4.0  # a margin so wide that its other border is never in doubt

Family = dict[str, Verdict]


def paired(values: Sequence[float] | np.ndarray) -> Paired:
    """Return differences [n] as if measured at the seeds 0 to n - 1."""
    seeds = range(len(values))
    return paired_difference(dict(zip(seeds, values, strict=True)), dict.fromkeys(seeds, 0.0))


def families(
    effects: Sequence[float], num_pairs: int, margin: float | None, draws: int = NULLS
) -> list[Family]:
    """Judge simulated families with these true differences, in their standard deviations."""
    generator, judged = np.random.default_rng(7), []
    for _ in range(draws):
        noise = generator.normal(size=(len(effects) + 1, num_pairs)) / math.sqrt(2)
        pairs = {str(k): paired(noise[k + 1] - noise[0] + e) for k, e in enumerate(effects)}
        judged.append(verdicts(list(pairs), pairs, margin))
    return judged


def share(judged: list[Family], *words: str) -> float:
    """Return the share of families in which any arm has one of these words."""
    return float(np.mean([any(v.word in words for v in one.values()) for one in judged]))


def found_within(judged: list[Family]) -> float:
    """Return the share of families in which any arm's corrected TOST p is at most .05."""
    return float(np.mean([min(v.equivalence_p for v in one.values()) <= ALPHA for one in judged]))


def t_coverage(num_pairs: int, draws: int = NULLS) -> float:
    """Return how often the 95 % t interval holds the true mean difference, -.3."""
    drawn = np.random.default_rng(2026).normal(-0.3, 1, (draws, num_pairs))
    return float(np.mean([low <= -0.3 <= high for _, low, high in map(t_interval, drawn)]))


def power_at(effect: float, num_pairs: int, family: int, draws: int = NULLS) -> float:
    """Return how often one method of a family with this effect, the others with none, is found."""
    judged = families([-effect, *[0.0] * (family - 1)], num_pairs, None, draws)
    return float(np.mean([one["0"].word == "better" for one in judged]))


def main() -> None:
    """Print coverage, family-wise errors and power."""
    print(f"{NULLS:,} simulations of each line")
    for num_pairs in (3, 6, 8):
        print(f"95 % t interval, {num_pairs} seeds: holds the truth in {t_coverage(num_pairs):.1%}")
    for num_pairs, family in ((6, 1), (7, 2), (8, 3)):
        size = f"{num_pairs} seeds, {family} method{'s' * (family > 1)}"
        wrong = share(families([0.0] * family, num_pairs, None), "better", "worse")
        print(f"{size} without an effect: any false better or worse in {wrong:.1%}")
        borders = [_BORDER * (-1) ** k for k in range(family)]
        within = found_within(families(borders, num_pairs, _BORDER))
        print(f"{size} just at the margin: any found within it in {within:.1%}")
    for num_pairs, family in ((6, 1), (7, 2), (8, 3)):
        level = ALPHA / family
        stated = detectable_effect(num_pairs, level, POWER)
        size = f"{num_pairs} seeds, {family} method{'s' * (family > 1)}"
        for name, effect in (
            ("stated", stated),
            ("of the t test", t_effect(num_pairs, level, POWER)),
        ):
            found = power_at(effect, num_pairs, family)
            print(f"{size}: the effect {name}, {effect:.2f} sd, is found in {found:.1%}")


if __name__ == "__main__":
    main()
