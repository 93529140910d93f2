"""The linear datamodelling score: does the sum of scores rank retrainings as they turn out?

The model is trained again on random subsets of its train rows (Park et al., arXiv:2303.14186, sec.
2; Ilyas et al., arXiv:2202.00622). For a query, an estimator predicts of each subset the sum of the
scores of its rows; the score of the estimator is Spearman's correlation of these sums with minus
the query's loss, over the subsets. Here subsets, losses and sums are made; correlations and their
intervals are computed where they are reported, from these numbers.

Every estimator is judged on the same models. With two replicas of each, which differ in seeds, how
well one replica ranks the other tells how much of the ranking is there to be predicted at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.attribution.evaluation.retraining import leaving_out
from harness.errors import SpecError
from harness.rng import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.evaluation.judged import Found, Judged
    from harness.attribution.rows import Pool


def measure(judged: Judged) -> Found:
    """Return losses [R, S, Q] of the retrainings, and sums of scores [S, Q] by label."""
    options, pool = judged.options, judged.pool
    kept = keyed_subsets(pool, options.subsets, options.share, options.seed)  # [S, N]
    scores = {label: judged.scores(label) for label in judged.labels}  # first: they may be refused
    retraining = judged.retraining()
    edits = [leaving_out(pool, np.flatnonzero(~own).tolist(), options.order) for own in kept]
    specs = [[retraining.edited(edit, r) for edit in edits] for r in range(options.replicas)]
    retraining.train([spec for replica in specs for spec in replica], "subsets")
    losses = [retraining.losses(replica, judged.queries).tolist() for replica in specs]
    return {
        "rows": len(pool),
        "share": options.share,
        "order": options.order,
        "kept": kept.sum(1).tolist(),
        "run_ids": [[spec.run_id for spec in replica] for replica in specs],
        "losses": losses,
        "sums": {
            label: (kept.astype(np.float64) @ np.nan_to_num(own)).tolist()
            for label, own in scores.items()
        },
    }


def keyed_subsets(pool: Pool, count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows each random subset keeps [S, N]: the share of every domain, rounded."""
    domains = np.array([pool.names.index(name) for name, _ in pool.picks])
    kept = np.zeros((count, len(pool)), dtype=np.bool_)
    for k, name in enumerate(pool.names):
        own = np.flatnonzero(domains == k)
        size = round(share * len(own))
        if not 0 < size < len(own):
            raise SpecError(
                f"evaluate.share: {share} of the {len(own)} rows of {name!r} is {size}; a subset "
                "keeps at least one row of each domain, and leaves one out"
            )
        for s in range(count):
            keyed = generator(seed, "subset", s, name)
            kept[s, own[torch.randperm(len(own), generator=keyed)[:size].numpy()]] = True
    return kept
