"""Give domains and arms their colors: one for each, the same in every figure and table.

Areas are domains and lines are arms, from two palettes, so that a color never means two things.
Beyond the length of a palette, hatching and dashes tell the repeats apart.
"""

from __future__ import annotations

from typing import NamedTuple

from reports import measures
from reports.load import Evidence

# Paul Tol's "light" scheme: made for areas, told apart under each color blindness.
DOMAIN_COLORS = (
    "#77AADD",
    "#EE8866",
    "#EEDD88",
    "#FFAABB",
    "#44BB99",
    "#BBCC33",
    "#99DDFF",
    "#AAAA00",
)
DOMAIN_HATCHES = ("", "/", "x", ".")
# Okabe and Ito's scheme without its black and yellow, which vanish on dark and on light paper.
ARM_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE_COLOR = "#808890"
ACCOUNT_COLORS = {"training": "#9AA7B5", "mixer": "#D8A02B", "auxiliary runs": "#8F4A78"}


class Key(NamedTuple):
    """An entry of a legend that the page draws; `dash` is an SVG dash array, '' for solid."""

    label: str
    color: str
    dash: str = ""
    hatch: str = ""


def domain_keys(evidence: Evidence) -> dict[str, Key]:
    """Give each evaluated domain its color: by its place in the spec, the same in every figure."""
    count = len(DOMAIN_COLORS)
    return {
        name: Key(
            name, DOMAIN_COLORS[k % count], hatch=DOMAIN_HATCHES[k // count % len(DOMAIN_HATCHES)]
        )
        for k, name in enumerate(evidence.header["probe_domains"])
    }


def arm_keys(evidence: Evidence) -> dict[str, Key]:
    """Give each arm its line: the baseline is grey, controls are dotted, repeats are dashed."""
    keys, count = {}, 0
    for arm in measures.arms(evidence):
        if arm.role == "baseline":
            keys[arm.label] = Key(arm.label, BASELINE_COLOR)
            continue
        color = ARM_COLORS[count % len(ARM_COLORS)]
        repeat = "7 3" if count >= len(ARM_COLORS) else ""
        keys[arm.label] = Key(arm.label, color, "2 2" if arm.role == "control" else repeat)
        count += 1
    return keys


def translucent(color: str) -> str:
    """Return a color as the fill of a band, through which other bands stay visible."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.12)"
