"""How far the probe set, which methods may look at, lies from held-out text at the end of a run.

The two are other documents, so a gap by itself says nothing: some text is easier. Nor does the
difference to the baseline: how far the two lie apart moves with how much of the target was trained
on, for arms too that cannot look. What tells is the difference to a control that takes over the
arm's weights without looking (by the records: reports/takeovers.py): an arm whose gap is above its
control's has fitted the probe set. In nats per token, because a corpus keeps the bytes of tokens
only where results are reported; the tokenizer is everyone's.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from reports import measures, notation
from reports.load import Evidence
from reports.once import once
from reports.statement import Statement
from reports.stats import Paired, paired_difference, t_interval
from reports.takeovers import takeovers

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
    control: str
    """The arm that takes this one's weights over without looking; "" where there is none."""
    beyond: Paired | None
    """The arm's gap - that control's, by seed; None without one."""
    reading: str


@once
def gaps(evidence: Evidence) -> list[Gap]:
    """Return the gap of every arm whose finished runs measured the probe set; [] without any."""
    values = by_seed(evidence)
    controls = {arm: labels[0] for arm, labels in takeovers(evidence).items()}
    found = []
    for arm in measures.arms(evidence):
        own = values.get(arm.label)
        if not own:
            continue
        mean, low, high = t_interval(pd.Series(own).to_numpy(dtype=float))
        control = controls.get(arm.label, "")
        theirs = values.get(control, {})
        beyond = paired_difference(own, theirs) if set(own) & set(theirs) else None
        facts = (len(own), control, beyond, _reading(beyond))
        found.append(Gap(arm.label, mean, low, high, *facts))
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
            f"probe set than on held-out text, beside {gap.control}, which has its weights and "
            "did not look: part of what it chose fits the probe set alone. Descriptive.",
        )
        for gap in gaps(evidence)
        if gap.beyond is not None and gap.beyond.num_pairs >= FEW and gap.beyond.low > 0
    ]
