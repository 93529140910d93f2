"""How far the probe set, which methods may look at, lies from held-out text at the end of a run.

The two are other documents, so a gap by itself says nothing: some text is easier. All arms share
them, so the difference of gaps between an arm and the baseline says whether the arm's loss fell
further where it could look: it has then fitted the probe set. In nats per token, because a corpus
keeps the bytes of tokens only where results are reported; the tokenizer is everyone's.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from reports import measures, notation
from reports.load import Evidence
from reports.once import once
from reports.statement import Statement
from reports.stats import Paired, paired_difference, t_interval

FEW = 3
"""Pairs below which an interval is no ground for a word."""


class Gap(NamedTuple):
    """Held-out - probe on the target, in nats per token: positive where the probe set fares better.

    `low` and `high` bound the mean over seeds at 95 % (t), NaN for one seed.
    """

    arm: str
    mean: float
    low: float
    high: float
    num_seeds: int
    beyond: Paired | None
    """The arm's gap - the baseline's, by seed; None for the baseline, or without a common seed."""
    reading: str


@once
def gaps(evidence: Evidence) -> list[Gap]:
    """Return the gap of every arm whose finished runs measured the probe set; [] without any."""
    values = by_seed(evidence)
    baseline = values.get(evidence.header["baseline"], {})
    found = []
    for arm in measures.arms(evidence):
        own = values.get(arm.label)
        if not own:
            continue
        mean, low, high = t_interval(pd.Series(own).to_numpy(dtype=float))
        is_pair = arm.role != "baseline" and set(own) & set(baseline)
        beyond = paired_difference(own, baseline) if is_pair else None
        found.append(Gap(arm.label, mean, low, high, len(own), beyond, _reading(beyond)))
    return found


def by_seed(evidence: Evidence) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> held-out - probe on the target, in nats per token."""
    targets = pd.Series(evidence.header["targets"], dtype=float)
    probe = evidence.probes.astype({"run_id": object, "domain": object})
    rows = measures.main_runs(evidence)[["arm", "seed", "run_id"]].merge(probe, on="run_id")
    final = measures.final_evals(evidence)
    keys = ["arm", "seed", "domain"]
    held_out = final[final["split"] == "heldout"].set_index(keys)["nats_per_token"]
    gap = (held_out - rows.set_index(keys)["nats_per_token"]).unstack("domain")
    total = gap.reindex(columns=targets.index).mul(targets).sum(axis=1, skipna=False).dropna()
    values: dict[str, dict[int, float]] = {}
    for (arm, seed), value in total.items():
        values.setdefault(str(arm), {})[int(seed)] = float(value)
    return values


def _reading(beyond: Paired | None) -> str:
    if beyond is None or beyond.num_pairs < FEW:
        return ""
    if beyond.low > 0:
        return "fits the probe set more than held-out text"
    return "fits held-out text more than the probe set" if beyond.high < 0 else "no sign of it"


def gap_warnings(evidence: Evidence) -> list[Statement]:
    """Name the arms that have fitted the probe set."""
    return [
        Statement(
            "warning",
            f"{gap.arm} gains {notation.signed(gap.beyond.mean)} "
            f"{notation.interval(gap.beyond.low, gap.beyond.high)} nats per token more on the "
            "probe set, which it could look at, than on held-out text: part of what it chose "
            "fits the probe set alone. Descriptive, not tested.",
        )
        for gap in gaps(evidence)
        if gap.beyond is not None and gap.beyond.num_pairs >= FEW and gap.beyond.low > 0
    ]
