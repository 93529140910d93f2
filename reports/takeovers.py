"""Tell which controls take over an arm's weights, by the weights that both have on record.

A control that looks at another arm's runs may make anything of them: their mean over time, the same
weights at other moments, or a walk that starts where they do and ends elsewhere. Only the first two
tell what the arm's own looking was worth, since a mixture of its own moves a loss too. So a control
has an arm's weights where, at every seed that both have finished, each domain's mean over the run
is the arm's. What a method is called decides nothing; the price is that a replay of something else
than the mean weights, however faithful, is read as another mixture.
"""

from __future__ import annotations

import pandas as pd

from reports import measures
from reports.load import Evidence
from reports.once import once

_SAME = 1e-6  # weights that passed through float32 on their way are good to 1e-7


@once
def takeovers(evidence: Evidence) -> dict[str, list[str]]:
    """Return the controls that take over each arm's weights, by arm; an arm without one is not in.

    Those that keep their weights throughout a run come first: they have nothing of its moments.
    """
    looked_at = measures.looked_at(evidence)
    weights = _by_seed(evidence) if looked_at else pd.DataFrame()
    if weights.empty:
        return {}
    found: dict[str, list[str]] = {}
    for label, other in looked_at.items():
        if _are_same(weights, label, other):
            found.setdefault(other, []).append(label)
    return {
        arm: sorted(own, key=lambda c: not _is_constant(weights, c)) for arm, own in found.items()
    }


def _by_seed(evidence: Evidence) -> pd.DataFrame:
    """Return mean, min and max of each domain's weight over a run, by (arm, seed)."""
    runs = measures.main_runs(evidence)[["arm", "seed", "run_id"]]
    frame = evidence.weights[evidence.weights["run_id"].isin(runs["run_id"])]
    by_run = frame.groupby(["run_id", "domain"], observed=True)["weight"]
    table = by_run.agg(["mean", "min", "max"]).unstack("domain").reindex(runs["run_id"])
    return table.set_index(pd.MultiIndex.from_frame(runs[["arm", "seed"]]))


def _are_same(weights: pd.DataFrame, control: str, arm: str) -> bool:
    means = weights["mean"]
    if not {control, arm} <= set(means.index.get_level_values("arm")):
        return False
    gaps = (means.loc[control] - means.loc[arm]).dropna(how="all")  # seeds of both
    return len(gaps) > 0 and bool((gaps.abs() <= _SAME).all(axis=None))


def _is_constant(weights: pd.DataFrame, control: str) -> bool:
    own = weights.loc[control]
    return bool((own["max"] - own["min"] <= _SAME).all(axis=None))
