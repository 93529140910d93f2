"""Say whether each arm's estimator followed the exact influence, from the notes of its runs.

An arm whose estimator does not follow says nothing about influence, however its loss came out; the
limits below are where the words change, and nothing is tested against them.
"""

from __future__ import annotations

import math

import pandas as pd

from reports import measures
from reports.load import Evidence

FOLLOWS = 0.9
ROUGHLY = 0.5
COLUMNS = [
    "arm",
    "estimator",
    "exact",
    "num_comparisons",
    "rows",
    "spearman",
    "lowest",
    "domain_spearman",
    "same_best",
    "cost_ratio",
    "stale",
    "reading",
]


def comparisons(evidence: Evidence) -> pd.DataFrame:
    """Return one row per comparison of a finished main run: arm, seed, step, and what was noted."""
    runs = measures.main_runs(evidence)[["arm", "seed", "run_id"]]
    notes = evidence.notes[evidence.notes["name"] == "fidelity"].astype({"run_id": object})
    rows = runs.merge(notes, on="run_id").reset_index(drop=True)
    facts = pd.DataFrame(list(rows["values"]), index=rows.index)
    return pd.concat([rows[["arm", "seed", "step", "run_id"]], facts], axis=1)


def fidelity_table(evidence: Evidence) -> pd.DataFrame:
    """Return one row per arm that compared its estimator: agreement with the exact one, and cost.

    `spearman` is the mean over comparisons and `lowest` the worst of them; `cost_ratio` is the
    FLOPs of a refresh over what the exact estimator would have taken for as many rows.
    """
    found = comparisons(evidence)
    rows = []
    for arm in measures.arms(evidence):
        own = found[found["arm"] == arm.label]
        if own.empty:
            continue
        of_rows = (own["exact_flops"] - own["exact_query_flops"]) / own["rows"]
        exact_cost = own["exact_query_flops"] + of_rows * own["scored_rows"]
        judged = own[own["stale"] == 0]  # a stale fit's scores were thrown away
        mean = float((own if judged.empty else judged)["spearman"].mean())
        rows.append(
            {
                "arm": arm.label,
                "estimator": own["estimator"].iloc[0],
                "exact": own["exact"].iloc[0],
                "num_comparisons": len(own),
                "rows": int(own["rows"].sum()),
                "spearman": mean,
                "lowest": float(own["spearman"].min()),
                "domain_spearman": float(own["domain_spearman"].mean()),
                "same_best": float(100 * own["same_best"].mean()),
                "cost_ratio": float((own["estimator_flops"] / exact_cost).mean()),
                "stale": int(own["stale"].sum()),
                "reading": reading(mean),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def reading(spearman: float) -> str:
    """Say in words what a mean rank correlation of row scores means for the arm."""
    if math.isnan(spearman) or spearman < ROUGHLY:
        return "does not follow the exact influence"
    return "follows the exact influence" + ("" if spearman >= FOLLOWS else ", roughly")
