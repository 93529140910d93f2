"""What had been spent, and what was reached, at every evaluation along training.

Auxiliary runs come before the main run, so a curve starts where they end. What a mixer does is
taken to be spread evenly over the tokens: records say what it cost in all, not when.
"""

from __future__ import annotations

import pandas as pd

from reports import measures
from reports.load import Evidence
from reports.once import once

UNITS = ("tokens", "flops", "seconds")


@once
def along(evidence: Evidence) -> pd.DataFrame:
    """Return held-out losses along every finished main run, in bits per byte.

    A row for each arm, seed and evaluated step, with `tokens`, `flops` and `seconds` spent so far
    (of training, mixer and auxiliary runs; evaluation and saving are nobody's), the three metrics,
    and a column for each domain. FLOPs and seconds are NaN where a part of the bill is not known.
    """
    wide = _wide(evidence)
    bills = measures.costs(evidence).set_index(["arm", "seed"])
    bill = bills.reindex(pd.MultiIndex.from_frame(wide[["arm", "seed"]])).set_axis(wide.index)
    share = wide["tokens"] / bill["train_tokens"]
    flops = bill["auxiliary_flops"] + share * (bill["train_flops"] + bill["mixer_flops"])
    seconds = bill["auxiliary_seconds"] + wide["seconds"] + share * bill["mixer_seconds"]
    spent = wide.assign(flops=flops, seconds=seconds)
    return pd.concat([spent, measures.combined(evidence, wide)], axis=1)


def _wide(evidence: Evidence) -> pd.DataFrame:
    evals = evidence.evals[evidence.evals["split"] == "heldout"]
    evals = evals.astype({"run_id": object, "domain": object})
    rows = measures.main_runs(evidence)[["arm", "seed", "run_id"]].merge(evals, on="run_id")
    keys = ["arm", "seed", "step", "tokens"]
    wide = rows.pivot(index=keys, columns="domain", values="bits_per_byte")
    wide = wide.reindex(columns=evidence.header["probe_domains"])
    seconds = rows.groupby(keys)["seconds"].first()
    return wide.assign(seconds=seconds.reindex(wide.index)).reset_index()
