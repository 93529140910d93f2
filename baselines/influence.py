"""Influence rebalancing: sample more from domains whose rows lower the target's probe loss.

Every `every` steps: g = gradient of the declared target's mean probe loss, v = a g with AdamW's
frozen scaling a (arXiv:2505.19051, the Adam form of its section on the one-step objective); each
candidate row scores <g_i, v> by one extra forward (harness/influence/directional.py); a domain's
score p_k is the mean over its candidates. Scores are z-scored over domains, averaged over
refreshes, and turned into weights by one of
  softmax:        w = softmax(p / temperature)
  exponentiated:  w proportional to w_current exp(p / temperature)       (DoGE's form, 2310.15393)
  qp:             w = argmin -p.w + strength/2 |w - anchor|^2 on the simplex  (2505.19051's robust
                  objective, anchored, with domains tied and no second-order term)
then held between floor and cap.

Domain weights from influence are this project's own construction: Influence Distillation selects
fine-tuning rows. What is scored is exact up to the step of a finite difference; nothing is
approximated by landmarks. z-scores make temperature and strength mean the same at every refresh, at
a price: how far apart the domains are is forgotten, so scores that are only noise still move the
weights, and with two domains there are only two outcomes. The standard error of each domain's score
is recorded beside it; `standardize = false` keeps the scores' own scale.

Cost per refresh, in rows of a training step: one gradient on the probe rows, and a third for each
of two forwards of every candidate and three or four of each checked row. At the defaults, with 5
domains and batches of 16 rows, 6 % of training. Deviations: first order only; candidates are drawn
uniformly from each domain instead of from the training stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Mixer
from harness.domains import bounded, domain_mean, projected, standardized, uniform
from harness.influence.directional import (
    adam_scale,
    checked_step,
    preconditioned,
    score_rows,
    weighted_sum,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, State, View


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Influence(Mixer):
    """Domain weights from the exact directional influence on the target's probe set."""

    every: Annotated[int, Field(strict=True, gt=0)] = 100
    """Steps between refreshes; the first comes after this many."""
    rows: Annotated[int, Field(strict=True, gt=0)] = 16
    """Candidate rows scored per domain at a refresh."""
    probe_rows: Annotated[int, Field(strict=True, gt=0)] = 32
    """Probe rows of each target domain that the gradient is taken on."""
    probes: Literal["fresh", "fixed"] = "fresh"
    """New probe rows at each refresh (noise), or always the same (overfitting to them)."""
    check_rows: Annotated[int, Field(strict=True, gt=0)] = 8
    """Candidates on which the finite-difference step is checked."""
    preconditioner: Literal["adam", "none"] = "adam"
    """Score one AdamW step, or one plain gradient step."""
    standardize: Annotated[bool, Field(strict=True)] = True
    """z-score over domains, so that temperature and strength mean the same at every refresh."""
    memory: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    """Weight of the earlier refreshes in the moving average of the scores."""
    rule: Literal["softmax", "exponentiated", "qp"] = "softmax"
    temperature: Annotated[float, Field(strict=True, gt=0)] = 1.0
    """For softmax and exponentiated; smaller follows the scores more sharply."""
    strength: Annotated[float, Field(strict=True, gt=0)] = 4.0
    """For qp: pull towards the anchor (lambda)."""
    anchor: Literal["current", "start"] = "current"
    """For qp: the mixture that the pull is towards."""
    start: Literal["uniform", "natural"] = "uniform"
    """The mixture before the first refresh."""
    floor: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.02
    """No domain gets less."""
    cap: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """No domain gets more."""

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse bounds between which there is no mixture."""
        if not self.floor * len(domains) <= 1 <= self.cap * len(domains):
            raise ValueError(
                f"floor {self.floor} and cap {self.cap} leave no mixture of {len(domains)} domains"
            )

    def init(self, view: View) -> State:
        """Start from the chosen mixture, without scores."""
        weights = self._start(view)
        return {
            "weights": weights,
            "scores": torch.zeros_like(weights),
            "refreshes": torch.tensor(0),
        }

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K], refreshed when it is time."""
        if view.step > 0 and view.step % self.every == 0:
            self._refresh(view, state)
        return state["weights"]

    def _start(self, view: View) -> Tensor:
        weights = uniform(len(view.domains)) if self.start == "uniform" else view.prior
        return bounded(weights, self.floor, self.cap)

    def _refresh(self, view: View, state: State) -> None:
        rows = view.candidates(self.rows)
        along = self._direction(view)
        spread = torch.linspace(0, len(rows.rows) - 1, min(self.check_rows, len(rows.rows))).long()
        step = checked_step(view, rows.select(spread), along)
        row_scores = score_rows(view, rows, along, step.eps)  # [N]
        num_domains = len(view.domains)
        raw = domain_mean(row_scores, rows.domains, num_domains, torch.zeros(num_domains))
        scores = standardized(raw) if self.standardize else raw
        memory = self.memory if int(state["refreshes"]) else 0.0
        state["scores"] = memory * state["scores"] + (1 - memory) * scores
        state["refreshes"] = state["refreshes"] + 1
        state["weights"] = self._update(view, state)
        view.note(
            "rebalance",
            {
                "raw_scores": raw.tolist(),
                "standard_errors": _standard_errors(row_scores, rows, num_domains),
                "scores": state["scores"].tolist(),
                "weights": state["weights"].tolist(),
                "relative_step": step.relative,
                "step_disagreement": step.disagreement,
            },
        )

    def _direction(self, view: View) -> Direction:
        """Return the target's mean probe gradient, scaled as the optimizer would scale a row's."""
        probes = view.probes(self.probe_rows, fixed=self.probes == "fixed")
        targeted = [k for k, weight in enumerate(view.targets.tolist()) if weight > 0]
        gradients = [view.gradient(probes.select(probes.domains == k)) for k in targeted]
        gradient = weighted_sum(gradients, [float(view.targets[k]) for k in targeted])
        if self.preconditioner == "none":
            return gradient
        return preconditioned(gradient, adam_scale(view))

    def _update(self, view: View, state: State) -> Tensor:
        scores = state["scores"]
        if self.rule == "qp":
            anchor = state["weights"] if self.anchor == "current" else self._start(view)
            return projected(anchor + scores / self.strength, self.floor, self.cap)
        logits = scores / self.temperature
        if self.rule == "exponentiated":
            logits = logits + state["weights"].clamp(min=1e-300).log()
        return bounded(torch.softmax(logits, 0), self.floor, self.cap)


def _standard_errors(scores: Tensor, rows: Batch, num_domains: int) -> list[float]:
    """Return the standard error of each domain's mean score; 0 where it has one row."""
    groups = [scores[rows.domains.cpu() == k] for k in range(num_domains)]
    return [float(g.std() / len(g) ** 0.5) if len(g) > 1 else 0.0 for g in groups]
