"""Build the table that a reader takes home: one row per arm, with all that its verdict rests on.

Numbers of an arm are computed here once, and HTML, Markdown, arms.csv and the terminal show them.
Losses are means over the finished seeds of an arm; differences are paired by seed, arm - baseline.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reports import measures
from reports.bootstrap import bootstrap_intervals
from reports.effects import detectable_effect, seeds_for
from reports.equal_compute import AtEqualCompute, at_equal_compute
from reports.load import Evidence
from reports.noise import floor_of, noise_floors
from reports.once import once
from reports.oracle import Share, oracle
from reports.power import ALPHA, POWER


@once
def arms_table(evidence: Evidence) -> pd.DataFrame:
    """Return one row per arm: metrics in bits per byte, difference, verdict, overhead, its place.

    `bootstrap_low` and `bootstrap_high` are the two-level interval over seeds and documents;
    `detectable` is the mean difference that the verdict's test finds in four of five repetitions,
    at this arm's seeds and spread, and `wished_seeds` the seeds that `wished_effect` would need;
    `noise_floor` is what order of data alone moves such a mean by; `gap_closed` the fraction of the
    oracle's gap, with its interval. `equal_*` is the difference at equal compute, how it was come
    by, and what was compared or why nothing was.
    """
    values, bills = measures.metrics(evidence), measures.costs(evidence)
    judged, size = measures.judge(evidence), max(1, len(measures.family(evidence)))
    floors, shares = noise_floors(evidence), oracle(evidence).shares
    resampled, equal = bootstrap_intervals(evidence), at_equal_compute(evidence)
    rows = []
    for arm in measures.arms(evidence):
        own, bill = values[values["arm"] == arm.label], bills[bills["arm"] == arm.label]
        row: dict[str, Any] = {"arm": arm.label, "method": arm.method, "role": arm.role}
        row["num_seeds"] = len(own)
        row["declared_seeds"] = len(evidence.header["seeds"])
        row |= {metric: own[metric].mean() for metric in measures.METRICS}
        row |= _comparison(judged.get(arm.label))
        row["smallest_corrected_p"] = min(1.0, size * row["smallest_p"])
        low, high = resampled.get(arm.label, (math.nan, math.nan))
        row |= {"bootstrap_low": low, "bootstrap_high": high}
        row |= _power(row, ALPHA / size, measures.margin(evidence))
        row["noise_floor"] = floor_of(floors, row["num_pairs"])
        share = shares.get(arm.label, Share(math.nan, math.nan, math.nan))
        row |= {"gap_closed": share.value, "gap_low": share.low, "gap_high": share.high}
        row |= _at_equal_compute(equal.get(arm.label))
        for unit in ("seconds", "flops"):
            overhead = bill[f"overhead_{unit}"].sum(skipna=False)
            row[f"overhead_{unit}_percent"] = _percent(overhead, bill[f"train_{unit}"].sum())
        rows.append(row)
    return pd.DataFrame(rows)


def _at_equal_compute(found: AtEqualCompute | None) -> dict[str, Any]:
    pair = found.paired if found else None
    return {
        "equal_difference": pair.mean if pair else math.nan,
        "equal_low": pair.low if pair else math.nan,
        "equal_high": pair.high if pair else math.nan,
        "equal_pairs": pair.num_pairs if pair else 0,
        "equal_how": found.how if found else "",
        "equal_said": found.said if found else "",
    }


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole > 0 else math.nan


def _power(row: dict[str, Any], level: float, margin: float | None) -> dict[str, Any]:
    """Return what the row's pairs and spread can show; NaN where the arm is not tested.

    The effect to wish for is the margin; where none is declared, half of what can be found now.
    """
    nothing = {"detectable": math.nan, "wished_effect": math.nan, "wished_seeds": math.nan}
    if row["role"] != "method" or row["num_pairs"] < 2:
        return nothing
    sd = float(row["sd"])
    detectable = detectable_effect(row["num_pairs"], level, POWER) * sd
    wished = detectable / 2 if margin is None else margin
    seeds = seeds_for(wished, sd, level, POWER) if wished > 0 else None
    return {
        "detectable": detectable,
        "wished_effect": wished,
        "wished_seeds": math.nan if seeds is None else seeds,
    }


def _comparison(judged: measures.Judged | None) -> dict[str, Any]:
    pair = judged.paired if judged else None
    return {
        "difference": pair.mean if pair else math.nan,
        "sd": pair.sd if pair else math.nan,
        "low": pair.low if pair else math.nan,
        "high": pair.high if pair else math.nan,
        "num_pairs": pair.num_pairs if pair else 0,
        "p": pair.p if pair else math.nan,
        "smallest_p": pair.smallest_p if pair else math.nan,
        "corrected_p": judged.verdict.corrected_p if judged else math.nan,
        "equivalence_p": judged.verdict.equivalence_p if judged else math.nan,
        "verdict": judged.verdict.word if judged else "baseline",
        "reason": judged.verdict.reason if judged else "every other arm is compared with this one",
    }
