"""Leaving rows out: does a query's loss rise most where its most helpful rows are gone?

The model is trained again without a group of `removed` rows. Random groups tell whether the sum of
a group's scores ranks what leaving it out does (leave-k-out). The top rows of some queries, by each
estimator, tell whether a query depends on the rows that are said to help it (brittleness), beside
random groups of the same size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.attribution.evaluation.retraining import leaving_out
from harness.rng import generator

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged


def measure(judged: Judged) -> Found:
    """Return losses [R, G, Q] without each group, [R, Q] without none, and what was predicted."""
    options, pool, queries = judged.options, judged.pool, judged.queries
    judged.refuse_too_many("removed", options.removed)
    scores = {label: judged.scores(label) for label in judged.labels}
    groups: list[list[int]] = []
    facts: list[Found] = []
    for g in range(options.groups):
        keyed = generator(options.seed, "removal group", g)
        groups.append(torch.randperm(len(pool), generator=keyed)[: options.removed].tolist())
        facts.append({"kind": "random", "label": None, "query": None})
    chosen = spread(len(queries), options.removal_queries)
    for label, own in scores.items():
        for q in chosen:
            groups.append(top(own[:, q], options.removed))
            facts.append({"kind": "top", "label": label, "query": q})
    retraining, replicas = judged.retraining(), range(options.replicas)
    edits = [leaving_out(pool, group, options.order) for group in groups]
    specs = [[retraining.edited(edit, r) for edit in edits] for r in replicas]
    whole = [retraining.edited(None, r) for r in replicas]
    retraining.train([*whole, *(spec for replica in specs for spec in replica)], "removal")
    gone = np.zeros((len(groups), len(pool)))
    for g, group in enumerate(groups):
        gone[g, group] = 1
    return {
        "rows": len(pool),
        "removed": options.removed,
        "order": options.order,
        "groups": facts,
        "queries": chosen,
        "run_ids": [[spec.run_id for spec in replica] for replica in specs],
        "whole_run_ids": [spec.run_id for spec in whole],
        "whole": retraining.losses(whole, queries).tolist(),
        "losses": [retraining.losses(replica, queries).tolist() for replica in specs],
        "sums": {label: (gone @ np.nan_to_num(own)).tolist() for label, own in scores.items()},
    }


def top(scores: np.ndarray, count: int) -> list[int]:
    """Return the rows of the highest scores, ties in the pool's order, unknown ones last."""
    found: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return found


def spread(size: int, count: int) -> list[int]:
    """Return up to `count` of 0 to size - 1, evenly spread."""
    count = min(size, count)
    return [i * size // count for i in range(count)]
