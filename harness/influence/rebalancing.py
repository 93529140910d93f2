"""From an estimator to scores of candidate rows: what a rebalancing method does at a refresh.

Rows on which an estimator is compared with the exact one come behind those that it is fitted on in
the keyed draw of each domain, so that no landmark is evidence for its own regression. A fit is made
anew at every refresh or kept in the mixer's state; one that is kept can go stale, and then says so.
Draws of different steps are independent: a row may be compared that an earlier fit has seen, and in
a domain too small to keep rows apart, the scored ones are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from harness.influence.fidelity import compared

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View
    from harness.influence.schedule import Schedule

FITTED = "fitted:"


@dataclass(frozen=True)
class Refreshed:
    """What a refresh found."""

    rows: Batch  # that were scored
    query: Batch  # probe rows of the target
    scores: Tensor  # [N] float64
    about: dict[str, Note]
    fidelity: dict[str, Note] = field(default_factory=dict)


def refresh(view: View, state: State, plan: Schedule, number: int) -> Refreshed:
    """Score candidates at the present parameters; `number` counts refreshes from 0."""
    compares = _compares(plan, number)
    drawn = _Drawn(view, plan, compares)
    fit_is_due = number == 0 or (plan.refit > 0 and number % plan.refit == 0)
    before = view.spent
    fitted = _fit(view, state, plan, drawn) if fit_is_due else _kept(state)
    found, prepared = _scored(view, plan, fitted, drawn, before)
    if not compares:
        return found
    try:
        facts = _compared(view, plan, prepared, drawn)
    except ValueError as error:  # of modules whose row gradients are not known; a run goes on
        view.note("not_compared", {"reason": f"no exact scores: {' '.join(str(error).split())}"})
        return found
    facts |= {"estimator_flops": found.about["flops"], "stale": 0}
    if float(facts["spearman"]) >= _least(plan) or _least(plan) == 0:  # type: ignore[arg-type]
        return replace(found, fidelity=facts)
    if fit_is_due:  # a fit of now that does not follow: there is no better one to make
        return replace(found, fidelity={**facts, "below": _least(plan)})
    before = view.spent
    anew, prepared = _scored(view, plan, _fit(view, state, plan, drawn), drawn, before)
    again = _compared(view, plan, prepared, drawn)
    facts |= {"stale": 1, "spearman_anew": again["spearman"]}
    facts["estimator_flops"] = float(found.about["flops"]) + float(anew.about["flops"])  # type: ignore[arg-type]
    facts["exact_flops"] = float(facts["exact_flops"]) + float(again["exact_flops"])  # type: ignore[arg-type]
    return replace(anew, fidelity=facts)


def _compared(view: View, plan: Schedule, prepared: State, drawn: _Drawn) -> dict[str, Note]:
    """Return how the estimator's scores of rows that it was not fitted on agree with exact ones."""
    estimator = _estimator(plan)
    scores = estimator.score(view, prepared, drawn.unseen).total[:, 0]
    facts = compared(view, estimator, drawn.unseen, drawn.query, scores)
    return {**facts, "estimator": estimator.kind, "scored_rows": len(drawn.rows.rows)}


class _Drawn:
    """The rows of a refresh, by purpose."""

    def __init__(self, view: View, plan: Schedule, compares: bool) -> None:
        most = max(plan.rows, plan.pool_rows)
        candidates = view.candidates(most + plan.fidelity_rows * compares)
        self.rows = of_each(candidates, 0, plan.rows)
        self.pool = of_each(candidates, 0, plan.pool_rows or plan.rows)
        unseen = of_each(candidates, most, most + plan.fidelity_rows)
        # domains too small to keep some apart
        self.unseen = unseen if len(unseen.rows) > 1 else self.rows
        probes = view.probes(2 * plan.probe_rows, fixed=plan.probes == "fixed")
        own = of_each(probes, plan.probe_rows, 2 * plan.probe_rows)
        self.own = own if len(own.rows) else probes  # what an encoder's anchors are
        query = of_each(probes, 0, plan.probe_rows)
        weights = view.targets.to(query.domains.device)[query.domains]
        self.query = query.select((weights > 0).nonzero()[:, 0])


def _compares(plan: Schedule, number: int) -> bool:
    """Tell whether to compare now: what may be stale is looked at whenever it is used."""
    if _least(plan) > 0 or (plan.refit != 1 and plan.fidelity_every > 0):
        return True
    return plan.fidelity_every > 0 and number % plan.fidelity_every == 0


def _least(plan: Schedule) -> float:
    """Return the correlation under which a kept fit is stale: the plan's, else the estimator's."""
    own: float = getattr(plan.estimator, "stale_below", 0.0)  # of one that has to be trained
    return plan.stale_below or own


def _estimator(plan: Schedule) -> Any:
    return replace(plan.estimator, queries="target")


def _scored(
    view: View, plan: Schedule, fitted: State, drawn: _Drawn, before: float
) -> tuple[Refreshed, State]:
    estimator = _estimator(plan)
    prepared = estimator.prepare(view, fitted, drawn.query)
    scores = estimator.score(view, prepared, drawn.rows)
    about = {name: _one(value) for name, value in scores.about.items()}
    about["flops"] = view.spent - before
    return Refreshed(drawn.rows, drawn.query, scores.total[:, 0], about), prepared


def _fit(view: View, state: State, plan: Schedule, drawn: _Drawn) -> State:
    fitted: State = plan.estimator.fit(view, drawn.pool, drawn.own)
    if plan.refit != 1:
        for name in [name for name in state if name.startswith(FITTED)]:
            del state[name]
        state.update({FITTED + name: value for name, value in fitted.items()})
    return fitted


def _one(value: Note) -> Note:
    """Return a list of one query's number as that number: a refresh has one query."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _kept(state: State) -> State:
    return {n.removeprefix(FITTED): v for n, v in state.items() if n.startswith(FITTED)}


def of_each(batch: Batch, start: int, end: int) -> Batch:
    """Return the rows that stand at `start` to `end` - 1 among their domain's rows."""
    domains = batch.domains.cpu()
    place = torch.zeros_like(domains)
    for domain in domains.unique():  # type: ignore[no-untyped-call]
        mine = domains == domain
        place[mine] = torch.arange(int(mine.sum()))
    index = ((place >= start) & (place < end)).nonzero()[:, 0]
    return batch.select(index.to(batch.domains.device))


def standard_errors(scores: Tensor, rows: Batch, num_domains: int) -> list[float]:
    """Return the standard error of each domain's mean score; 0 where it has one row."""
    groups = [scores[rows.domains.cpu() == k] for k in range(num_domains)]
    return [float(g.std() / len(g) ** 0.5) if len(g) > 1 else 0.0 for g in groups]
