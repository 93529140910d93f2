"""What the pictures of factors show, in plain words: every sentence follows from the numbers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

from reports.attribution.spectra import SEED_RIDGE, SHARES, Side, Spectrum
from reports.notation import correlation, share, whole

TIMES = "\N{MULTIPLICATION SIGN}"
DIGITS = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
RAISED = str.maketrans("-0123456789", DIGITS)
TENTH = 0.1
FLAT = 2.0  # times its even share: below this, rows or columns are called even
STRONG = 0.5  # of a rank correlation with depth, to be called a trend
FEWEST = 4  # layers for one


def number(value: float) -> str:
    """Write a positive number with three digits, as a power of ten where it is far from 1."""
    if not np.isfinite(value):
        return "infinite"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} {TIMES} {power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """Write it as 10 with a raised exponent."""
    return "10" + str(exponent).translate(RAISED)


def heatmap(found: Spectrum) -> str:
    """Say where in the matrix the curvature lies."""
    out, size = found.shape
    text = f"{whole(out)} {TIMES} {whole(size)} eigenvalues"
    if found.inputs is None:
        return (
            f"{text}, one for each weight: rows are outputs, columns inputs. The largest is "
            f"{_times(found.largest, found.median)} the median."
        )
    text += ", ordered by the two covariances: rows by output gradients, columns by inputs. "
    rows, columns = found.last_rows / TENTH, found.last_columns / TENTH
    text += (
        f"The last tenth of the rows holds {share(found.last_rows)} of the sum, the last tenth of "
        f"the columns {share(found.last_columns)}; even ones would hold 10%. "
    )
    if max(rows, columns) < FLAT:
        return text + "So the curvature is spread evenly."
    side = "the right edge" if columns > rows else "the bottom edge"
    more = "the order alone makes such an edge of any skewed spectrum"
    return text + f"It gathers at {side}: {more}, so it says nothing about single features."


def sorted_values(found: Spectrum) -> str:
    """Say how far the eigenvalues are apart, and what damping does to them."""
    text = (
        f"Half of the {whole(found.directions)} eigenvalues are below {number(found.median)}; the "
        f"largest is {number(found.largest)}, {_times(found.largest, found.median)} as large. "
    )
    text += f"The damping, {number(found.damping)}, is above {_share(found.damped)} of them: "
    if found.damped > 0.5:
        return text + "along most directions the inverse is flat to a factor of two."
    if found.damped > 0:
        return text + "there the inverse is flat to a factor of two, elsewhere it follows them."
    return text + "it changes the inverse little anywhere."


def cumulative(found: Spectrum) -> str:
    """Say how few directions hold the sum."""
    held = [
        f"{share(part)} of the sum lies in the {whole(count)} largest "
        f"({_share(count / found.directions)})"
        for part, count in zip(SHARES, found.reach, strict=True)
    ]
    rank = f"Stable rank {number(found.stable_rank)} of {whole(found.directions)}"
    return f"{'; '.join(held)}. {rank}: sum over the largest."


def condition(found: Spectrum) -> str:
    """Say how unevenly the inverse weighs, with damping and without."""
    damped = f"with the damping {number(found.condition_damped)}"
    if not np.isfinite(found.condition):
        text = f"Some eigenvalues are 0, so there is no inverse without damping; {damped}: "
    else:
        text = f"The condition number is {number(found.condition)}, {damped}: "
    return f"{text}no direction of a gradient is weighed more than so many times another."


def ridge(found: Spectrum, strategy: str, fitted_with: float) -> str:
    """Say what a share of the trace on the diagonals does to the spectrum."""
    if found.inputs is None or found.gradients is None:
        return ""
    asked = fitted_with or SEED_RIDGE
    told = [
        _flattened(name, side, asked)
        for name, side in (("inputs", found.inputs), ("output gradients", found.gradients))
    ]
    text = f"With {share(asked)} of the trace on its diagonal, {'; '.join(told)}. "
    text += "These factors were fitted with it. " if fitted_with else "Not applied here. "
    if strategy == "kfac" and found.ridged is not None:
        after = found.ridged
        return text + (
            "kfac inverts the product of both: at "
            f"{share(SEED_RIDGE)} its condition falls from {number(found.condition)} to "
            f"{number(after['condition'])} and its stable rank rises from "
            f"{number(found.stable_rank)} to {number(after['stable_rank'])} of "
            f"{whole(found.directions)}."
        )
    return text + (
        "It turns no eigenvector, and ekfac measures what it inverts afterwards in their basis: "
        "the matrix above does not change by it, and damping alone regularises scores."
    )


def across(found: list[Spectrum]) -> dict[str, list[str]]:
    """Say how modules differ, and whether depth has to do with it, by the picture's name."""
    if len(found) < 2:
        return {}
    rank = _range(found, "stable rank", lambda s: s.stable_rank)
    held = "share of directions with 90% of the sum"
    return {
        "stable_rank": [rank, *_trends(found)],
        "condition": [_range(found, "condition number with damping", lambda s: s.condition_damped)],
        "damped": [_range(found, "share of damped directions", lambda s: s.damped, as_share=True)],
        "reach": [_range(found, held, lambda s: s.reach[1] / s.directions, as_share=True)],
    }


def health(facts: dict[str, Any], shown: list[str]) -> list[str]:
    """Say what the fit has met on the way, of covariances those of the modules `shown`."""
    modules = {name: found for name, found in facts["modules"].items() if name in shown}
    sides = [m[s] for m in modules.values() for s in ("inputs", "gradients") if s in m]
    told = [f"Fitted on {whole(facts['rows'])} rows; {whole(facts['skipped_rows'])} left out."]
    if sides:
        deficient = sum(side["rank"] < side["size"] for side in sides)
        climbed = [side["rung"] for side in sides if side["rung"] != "float64"]
        told.append(
            f"{deficient} of {len(sides)} covariances have less than full rank in float32; "
            + (
                f"{len(climbed)} needed another rung of the ladder ({', '.join(set(climbed))})."
                if climbed
                else "all decomposed in float64 at the first try."
            )
        )
        below = sum(side["negative"] for side in sides)
        if below:
            deepest = max(-side["min"] / side["max"] for side in sides)
            told.append(
                f"{whole(below)} of their eigenvalues are below 0, by rounding: at most "
                f"{number(deepest)} of the largest."
            )
    for decision in facts["decisions"]:
        told.append(f"{decision['action']}: {decision['what']}, because {decision['because']}.")
    return told


def _flattened(name: str, side: Side, asked: float) -> str:
    ridged = side.ridged(asked)
    mean = float(side.values.mean())
    return (
        f"the covariance of the {name} has its condition fall from {number(side.condition)} to "
        f"{number(float(ridged[-1] / ridged[0]))}, its smallest eigenvalue become "
        f"{number(float(ridged[0]) / mean)} times the old mean"
    )


def _range(found: list[Spectrum], name: str, of: Any, as_share: bool = False) -> str:
    low, high = min(found, key=of), max(found, key=of)
    write = _share if as_share else number
    return (
        f"The {name} goes from {write(of(low))} ({low.module}) to {write(of(high))} "
        f"({high.module})."
    )


def _trends(found: list[Spectrum]) -> list[str]:
    by_kind: dict[str, list[Spectrum]] = defaultdict(list)
    for spectrum in found:
        if spectrum.layer is not None:
            by_kind[spectrum.kind].append(spectrum)
    told = []
    for kind, members in by_kind.items():
        if len(members) < FEWEST:
            continue
        depth, rank = [m.layer for m in members], [m.stable_rank for m in members]
        rho = float(stats.spearmanr(depth, rank)[0])
        if not np.isfinite(rho):
            continue
        way = "rises with depth" if rho > STRONG else "falls with depth"
        way = way if abs(rho) > STRONG else "has no clear trend with depth"
        layers = f"{len(members)} layers"
        told.append(f"{kind}: the stable rank {way} (Spearman {correlation(rho)}, {layers}).")
    return told


def _times(value: float, base: float) -> str:
    return f"{number(value / base)} times" if base > 0 else "infinitely many times"


def _share(value: float) -> str:
    if 0 < value < 0.001:
        return "less than 0.1%"
    if 0.999 < value < 1:
        return "more than 99.9%"
    return f"{100 * value:.3g}%"
