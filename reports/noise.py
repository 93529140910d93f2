"""Measure the noise floor: how far apart two arms are that differ in nothing but the order of data.

An A/A arm has the method and the settings of another arm and a `data_seed` of its own. At each seed
both start from the same weights, and it is a coin toss which of the two orders is better, so the
true mean of their differences is 0. What is left is what a difference without a reason looks like.
The price of asking only this: the noise of initial weights is not in it, nor is it in any paired
difference.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import numpy as np

from reports import measures
from reports.load import Evidence
from reports.stats import Paired, paired_difference, t_quantile


class NoiseFloor(NamedTuple):
    """An A/A arm beside its twin; differences are A/A arm - twin on the primary metric."""

    arm: str
    twin: str
    paired: Paired

    def reach(self, num_pairs: int) -> float:
        """Return how far from 0 a mean of `num_pairs` such differences lies, in 19 of 20 cases.

        In bits per byte. The true mean is 0, so the spread is taken about 0, with as many degrees
        of freedom as differences: mean * sqrt(num_pairs) / spread is then exactly t for normal
        differences, new ones or of another arm that is no better. NaN for one A/A pair, and
        where there is no mean.
        """
        if self.paired.num_pairs < 2 or num_pairs < 1:
            return math.nan
        spread = math.sqrt(float(np.mean(self.paired.values**2)))
        return t_quantile(self.paired.num_pairs) * spread / math.sqrt(num_pairs)


def noise_floors(evidence: Evidence) -> list[NoiseFloor]:
    """Compare every A/A arm with its twin; those without a common finished seed are left out."""
    values = measures.by_seed(evidence, evidence.header["primary"])
    return [
        NoiseFloor(arm, twin, paired_difference(values[arm], values[twin]))
        for arm, twin in twins(evidence).items()
        if set(values[arm]) & set(values[twin])
    ]


def twins(evidence: Evidence) -> dict[str, str]:
    """Map each A/A arm to the arm that differs from it in the order of data alone.

    Of several such arms the baseline comes first, then methods, then controls.
    """
    entries = evidence.header["arms"]
    asked = {arm.label: _asked(entries[arm.label]) for arm in measures.arms(evidence)}
    found = {}
    for label, what in asked.items():
        if entries[label].get("data_seed") is None:
            continue
        plain = [o for o in asked if asked[o] == what and entries[o].get("data_seed") is None]
        if plain:
            found[label] = plain[0]
    return found


def _asked(entry: dict[str, object]) -> str:
    return json.dumps([entry["method"], entry.get("settings") or {}], sort_keys=True)


def floor_of(floors: list[NoiseFloor], num_pairs: int) -> float:
    """Return the highest reach of several A/A arms, in bits per byte; NaN where there is none."""
    reaches = [floor.reach(num_pairs) for floor in floors]
    return max((reach for reach in reaches if not math.isnan(reach)), default=math.nan)
