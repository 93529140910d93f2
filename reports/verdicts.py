"""Decide what paired seeds prove, and refuse to decide where they can prove nothing.

One family is tested: the declared methods on the one primary metric. A word is given only where
some outcome could have earned the opposite one: Holm multiplies the smallest reachable p, 2^(1-n),
by the number of methods, so five seeds can never reach .05, and a family of methods needs more.

Words. better, worse: the two-sided sign-flip p, Holm-corrected, is at most .05. equivalent: it is
not, a margin is declared, and the TOST p, Holm-corrected over the same methods, is at most .05. An
arm that is both is called by its sign, and the reason says that it lies within the margin: it
differs, by less than is worth having. undecided: neither.

What is controlled. Holm keeps the chance of any false better or worse at 5 %, and, applied to the
TOST p values, the chance of any false equivalent at 5 %, each under any dependence. They are two
errors, held apart: a family can commit one of either kind with at most 10 %. For one method it
stays 5 %, because "the difference is 0" and "it is at least the margin" cannot both be true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from reports.equivalence import equivalence_p
from reports.power import ALPHA, seeds_needed, smallest_p
from reports.stats import Paired, holm

PROVEN = ("better", "worse", "equivalent")


class Verdict(NamedTuple):
    """A computed word, its corrected p (NaN where there is none), and the reason in words."""

    word: str
    corrected_p: float
    """Of the difference being 0."""
    reason: str
    equivalence_p: float = math.nan
    """Of the difference being at least the margin, corrected; NaN where no margin is declared."""


class _Facts(NamedTuple):
    """What is known of one method within its family; every p is corrected by Holm."""

    pair: Paired
    different: float
    equivalent: float
    smallest: float
    family: int
    margin: float | None


def verdicts(
    family: Iterable[str], paired: Mapping[str, Paired], margin: float | None = None
) -> dict[str, Verdict]:
    """Judge every declared method on the one primary metric; `margin` in bits per byte.

    `family` is every method that was declared, also one without a finished pair: it counts with
    p = 1, because leaving a failed arm out of the family would make the others look better.
    """
    names = list(family)
    found = {name: paired[name] for name in names if name in paired}
    different = holm({name: found[name].p if name in found else 1.0 for name in names})
    smallest = holm({name: found[name].smallest_p if name in found else 1.0 for name in names})
    equivalent = holm(_equivalence(names, found, margin))
    return {
        name: _judge(
            _Facts(
                found[name], different[name], equivalent[name], smallest[name], len(names), margin
            )
        )
        if name in found
        else Verdict("no verdict", math.nan, "no seed has finished in both arms")
        for name in names
    }


def _equivalence(
    names: list[str], paired: Mapping[str, Paired], margin: float | None
) -> dict[str, float]:
    if margin is None:
        return dict.fromkeys(names, 1.0)
    return {
        name: equivalence_p(paired[name].values, margin) if name in paired else 1.0
        for name in names
    }


def _judge(facts: _Facts) -> Verdict:
    if facts.smallest > ALPHA:
        reason = why_no_verdict(facts.pair.num_pairs, facts.family)
        return Verdict("no verdict", math.nan, reason)
    is_different = facts.different <= ALPHA
    is_within = facts.margin is not None and facts.equivalent <= ALPHA
    word = "equivalent" if is_within else "undecided"
    if is_different:
        word = "better" if facts.pair.mean < 0 else "worse"
    reason = _reason(facts, is_different, is_within)
    return Verdict(
        word, facts.different, reason, math.nan if facts.margin is None else facts.equivalent
    )


def _reason(facts: _Facts, is_different: bool, is_within: bool) -> str:
    among = f", corrected for {facts.family} methods (Holm)" if facts.family > 1 else ""
    numbers = f"p = {facts.different:.3g}{among}; {facts.pair.num_pairs} paired seeds could reach "
    numbers += f"{facts.smallest:.3g}"
    unproven = f"{numbers}; above {ALPHA:g}, so neither is proven"
    if facts.margin is None:
        return numbers if is_different else unproven
    tost = f"TOST p = {facts.equivalent:.3g}{among}"
    within = f"within the margin of {facts.margin:g} bits per byte"
    if not is_within:
        return numbers if is_different else f"{unproven}; nor that it is {within} ({tost})"
    small = f"{within}, less than a difference worth having"
    if is_different:
        return f"{numbers}; yet {small} ({tost})"
    return f"{tost}: {small}; not told apart from 0: {numbers}"


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
