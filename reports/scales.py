"""Put differences on two scales, in sentences: what chance does, and what the best mixture does.

Both are descriptive: they say how large a difference is, not whether it is there.
"""

from __future__ import annotations

import math

import pandas as pd

from reports import notation
from reports.load import Evidence
from reports.noise import noise_floors
from reports.oracle import oracle
from reports.statement import Statement


def noise_sentences(evidence: Evidence, frame: pd.DataFrame) -> list[Statement]:
    """Say how far A/A arms lie apart, and which methods of the arms table lie beyond that."""
    told, floors = [], noise_floors(evidence)
    for floor in floors:
        pair = floor.paired
        text = f"Noise floor: {floor.arm} is {floor.twin} with another order of data and differs "
        text += f"from it by {notation.signed(pair.mean)} "
        if pair.num_pairs < 2:
            told.append(Statement("warning", f"{text}at one seed, which has no spread."))
            continue
        text += f"{notation.interval(pair.low, pair.high)} bits per byte (sd "
        text += f"{notation.bits(pair.sd)}, {pair.num_pairs} seeds); order of data alone moves a "
        text += f"mean of as many by up to {notation.bits(floor.reach(pair.num_pairs))} in 19 of 20"
        text += " cases."
        excludes = pair.low > 0 or pair.high < 0
        if excludes:
            text += " Its interval excludes 0, which one such arm in 20 does by chance."
        told.append(Statement("warning" if excludes else "measured", text))
    if told:
        last = told[-1]
        told[-1] = last._replace(text=last.text + _beyond(frame, {floor.arm for floor in floors}))
    return told


def _beyond(frame: pd.DataFrame, without: set[str]) -> str:
    """Sort the methods by whether their mean difference is one that order of data could make."""
    methods = frame[(frame["role"] == "method") & frame["noise_floor"].notna()]
    methods = methods[~methods["arm"].isin(without)]
    is_beyond = methods["difference"].abs() > methods["noise_floor"]
    parts = {
        "Beyond that, as one method in 20 is by chance": methods[is_beyond],
        "Within it": methods[~is_beyond],
    }
    return "".join(
        f" {words}: {notation.listed(list(rows['arm']))}."
        for words, rows in parts.items()
        if len(rows)
    )


def gap_sentences(evidence: Evidence, frame: pd.DataFrame) -> list[Statement]:
    """Say what part of the way from uniform to the best static mixture each method goes."""
    found = oracle(evidence)
    closed = [
        f"{row['arm']} closes {notation.share(row['gap_closed'])} "
        f"{notation.share_interval(row['gap_low'], row['gap_high'])}"
        for row in frame[frame["role"] == "method"].to_dict("records")
        if not math.isnan(row["gap_low"])
    ]
    if found.gap is None or not closed:
        return []
    text = (
        f"Of the gap from {found.uniform} to {found.best}, the best static mixture found "
        f"({notation.signed(found.gap.mean)} {notation.interval(found.gap.low, found.gap.high)}), "
        f"{notation.listed(closed)}. Descriptive, not tested."
    )
    return [Statement("measured", text)]


def budget_sentences(frame: pd.DataFrame) -> list[Statement]:
    """Say what each method comes to at equal compute, and where that cannot be said."""
    methods = frame[frame["role"] == "method"]
    told = []
    compared = methods[methods["equal_how"].isin(["runs", "curve"])]
    if len(compared):
        parts = [
            f"{row['arm']} {notation.signed(row['equal_difference'])} "
            f"{notation.interval(row['equal_low'], row['equal_high'])}".rstrip()
            + f" ({row['equal_said']})"
            for row in compared.to_dict("records")
        ]
        text = f"At equal compute, overhead included: {'; '.join(parts)}. Descriptive: verdicts are"
        told.append(Statement("measured", f"{text} at equal training tokens."))
    missing = methods[(methods["equal_how"] == "") & (methods["num_pairs"] > 0)]
    for reason, rows in missing.groupby("equal_said", sort=False):
        names = notation.listed(list(rows["arm"]))
        text = f"No comparison at equal compute for {names}: {reason}."
        told.append(Statement("warning", text))
    return told
