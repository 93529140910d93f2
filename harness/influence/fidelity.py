"""Whether an estimator follows the exact influence: on record, so that nobody has to believe it.

At chosen refreshes the rows that an estimator scored are scored once more by one backward pass.
Without it, "influence does not help" and "this approximation is broken" look the same. The price is
about one training step per compared row; its operations are billed like all others. Exact scores
are of the gradients that the run trains by: in bfloat16 where it trains in it, which is on record.

They are of the modules whose row gradients are known, which are all but norms in most models. Where
they are fewer (experts; a tied weight that is not understood), a directional estimator of all
parameters is compared at these alone, so that its error is told and not what the exact one lacks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from harness.domains import domain_mean
from harness.influence.directional_estimator import Directional
from harness.influence.gradients import GradCos, GradDot, Group
from harness.influence.selection import choose, covered

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, Note, View


EXACT = {"grad_dot": GradDot, "grad_cos": GradCos, "group": Group}


def understood(model: nn.Module) -> tuple[str, ...]:
    """Return the modules that exact scores are of: all, or else the linear layers of the blocks.

    ValueError where not even these can be chosen: then nothing can be compared.
    """
    for modules in (("all",), ("linear",)):
        with suppress(ValueError):
            choose(model, modules)
            return modules
    raise ValueError("row gradients are not known of this model's modules")


def exact_counterpart(
    estimator: Any, precision: str, modules: tuple[str, ...] = ("all",)
) -> GradDot | GradCos | Group:
    """Return the exact estimator that `estimator` approximates, by its own word; of the target.

    All layers of `modules` count, with biases, whatever the estimator looks at; Adam's factor
    counts where the estimator uses it, and a row's loss is a sum where its is. A curvature's scores
    are compared with plain gradients too: how far apart they are is a finding.
    """
    said = estimator.about()
    scale: Any = "adam" if said["preconditioner"] == "adam" else "none"
    made: Any = EXACT[said["approximates"]]
    loss = {} if made is GradCos else {"reduction": said["reduction"]}
    how: Any = {"queries": "target", "preconditioner": scale, "precision": precision}
    return made(modules=modules, **how, **loss)  # type: ignore[no-any-return]


def compared(
    view: View, estimator: Any, rows: Batch, query: Batch, scores: Tensor
) -> dict[str, Note]:
    """Return how well `scores` [N] of `rows` agree with the exact ones, and what those cost.

    spearman         over rows
    domain_spearman  over the domains' mean scores; 0 for a single domain
    same_best        1 where both put the same domain first
    exact_modules    whose gradients the exact scores are of, with `exact_covered` of the parameters
    exact_flops      of the exact estimator on these rows, `exact_query_flops` of them for the query
    """
    exact = exact_counterpart(estimator, view.precision, understood(view.model))
    scores = _of_the_same(view, estimator, rows, query, scores, exact.modules)
    before = view.spent
    prepared = exact.prepare(view, exact.fit(view, rows), query)
    of_query = view.spent - before
    truth = exact.score(view, prepared, rows).total[:, 0]
    there, domains = rows.domains.cpu().unique(return_inverse=True)  # type: ignore[no-untyped-call]
    nothing = torch.zeros(len(there), dtype=torch.float64)  # of domains that have a row here
    mine, theirs = (domain_mean(s, domains, len(there), nothing) for s in (scores, truth))
    return {
        "exact": exact.kind,
        "exact_precision": exact.precision,
        "exact_modules": " ".join(exact.modules),
        "exact_covered": covered(view.model, choose(view.model, exact.modules)),
        "rows": len(rows.rows),
        "spearman": spearman(scores, truth),
        "domain_spearman": spearman(mine, theirs),
        "same_best": int(mine.argmax() == theirs.argmax()),
        "scores": mine.tolist(),
        "exact_scores": theirs.tolist(),
        "exact_query_flops": of_query,
        "exact_flops": view.spent - before,
    }


def _of_the_same(
    view: View,
    estimator: Any,
    rows: Batch,
    query: Batch,
    scores: Tensor,
    modules: tuple[str, ...],
) -> Tensor:
    """Return the scores [N], taken anew of `modules` where the exact ones lack other matrices."""
    scored = {use.weight for use in choose(view.model, modules)}
    matrices = {name for name, p in view.model.named_parameters() if p.ndim > 1}
    if matrices <= scored or not isinstance(estimator, Directional) or estimator.modules:
        return scores
    narrow = replace(estimator, modules=modules)
    return narrow.score(view, narrow.prepare(view, {}, query), rows).total[:, 0]


def spearman(one: Tensor, other: Tensor) -> float:
    """Return the rank correlation of two vectors, ties sharing a rank; 0 if one is flat.

    Two flat vectors are 1: neither ranks anything.
    """
    ranks = torch.stack([_ranks(one), _ranks(other)])
    centered = ranks - ranks.mean(1, keepdim=True)
    sizes = centered.norm(dim=1)
    if not bool((sizes > 0).all()):
        return float(not bool((sizes > 0).any()))
    return float((centered[0] @ centered[1]) / sizes.prod())


def _ranks(values: Tensor) -> Tensor:
    """Return ranks [N] float64 from 1, on the CPU; equal values share their mean rank.

    scipy's say the same, and importing its statistics takes a second, which a run would be billed.
    """
    _, place, counts = values.cpu().unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    counts = counts.double()
    found: Tensor = (counts.cumsum(0) - (counts - 1) / 2)[place]
    return found
