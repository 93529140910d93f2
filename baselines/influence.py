"""Influence rebalancing: sample more from domains whose rows lower the target's probe loss.

Every `every` steps an estimator scores candidate rows by what a step on them takes off the target's
mean probe loss, at the present parameters and with AdamW's frozen scaling; a domain's score p_k is
the mean over its candidates. Scores are z-scored over domains, averaged over refreshes, and turned
into weights by one of
  softmax:        w = softmax(p / temperature)
  exponentiated:  w proportional to w_current exp(p / temperature)       (DoGE's form, 2310.15393)
  qp:             w = argmin -p.w + rate/2 w'Qw + strength/2 |w - anchor|^2 on the simplex; from a
                  uniform start with `anchor = "start"` Influence Distillation's robust objective
                  (2505.19051), domains tied; Q = 0 unless `second_order` (second_order.py)
  seed000:        shift by the lowest, normalize, clip to [.01, .9], normalize
then held between floor and cap, except for seed000 (harness/influence/rule.py).

Estimators, in harness/influence: `directional`, `grad_dot`, `grad_cos` and `group` are exact,
`jvp_landmark` is Influence Distillation's own, `hidden_landmark` the same without its derivative;
`ekfac`, `influcoder`. `rule = "seed000"` without an estimator is seed 000, a reproduction and no
recommendation: three domains of noise get (.010, .305, .685) whatever their scores. Its landmarks
are taken at the first refresh, where the seed took them at step 0.

Domain weights from influence are this project's own construction: Influence Distillation selects
fine-tuning rows. z-scores make temperature and strength mean the same at every refresh, at a price:
how far apart the domains are is forgotten, so scores that are only noise still move the weights.
Their standard errors are recorded; `standardize = false` keeps the scores' own scale.

Needs: probe rows of the target. Cost: at each refresh, by the defaults, a gradient on the probe
rows and two forward passes of every candidate. Defaults: 16 candidate rows per domain, 32 probe
rows per target domain, softmax at temperature 1, floor .02; `every = "auto"` trains on 20 times as
many rows as a refresh takes forward passes (five domains, 16 rows a step: every 360 steps, 773 in
bfloat16 on a GPU), or for half of a shorter run, at a higher price. Deviations: first order unless
`second_order`; candidates are drawn uniformly from each domain, off the training stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from harness.api import Mixer
from harness.domains import bounded, deranged, domain_mean, standardized, uniform
from harness.influence.estimators import SEED000
from harness.influence.rebalancing import Refreshed, refresh, standard_errors
from harness.influence.rule import Rule, Share
from harness.influence.schedule import Schedule
from harness.influence.second_order import is_first_order, of_domains

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View

Switch = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Influence(Schedule, Rule, Mixer):
    """Domain weights from the influence of their rows on the target's probe set."""

    standardize: Switch = True
    """z-score over domains, so that temperature and strength mean the same at every refresh."""
    memory: Share = 0.0
    """Weight of the earlier refreshes in the moving average of the scores."""
    second_order: Switch = False
    """For qp: how the domains' steps, at the rate of the step before, bend the probe loss together.
    By dot products: directional of all parameters, landmarks of "all" with normalize = false."""
    start: Literal["uniform", "natural"] = "uniform"
    """The mixture before the first refresh."""
    permute_domains: Switch = False
    """A control: give each domain another one's score, the same one throughout a run."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Give the seed's rule the seed's estimator, unless one is named."""
        is_call = isinstance(given, ArgsKwargs)
        settings = dict((given.kwargs or {}) if is_call else given)
        if settings.get("rule") == "seed000" and "estimator" not in settings:
            settings = {"estimator": SEED000, "refit": 0, "standardize": False, **settings}
        return ArgsKwargs(given.args, settings) if is_call else settings

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse bounds between which there is no mixture, and a bend without its slope."""
        self.check_bounds(len(domains))
        if self.second_order and not (self.rule == "qp" and is_first_order(self.estimator)):
            fix = 'set rule = "qp" and an estimator of dot products of all parameters'
            raise ValueError(f"second_order: {self.rule} by {self.estimator.kind}; {fix}")
        self.check_pool(len(domains))

    def check_ranks(self, sharded: bool) -> None:
        """Refuse what several ranks cannot compute."""
        super().check_ranks(sharded)
        if sharded and self.second_order:
            why = "second derivatives need whole parameters"
            raise ValueError(f'second_order: {why}; set it to false, or parallel = "ddp"')

    def init(self, view: View) -> State:
        """Start from the chosen mixture, without scores."""
        weights = self._start(view)
        state = {"weights": weights, "scores": torch.zeros_like(weights)}
        if self.permute_domains:
            state["permutation"] = deranged(view.domains, view.rng)
        return {**state, "refreshes": torch.tensor(0)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K], refreshed when it is time."""
        if view.step > 0 and view.step % self.interval(view, state, self.second_order) == 0:
            self._refresh(view, state)
        return state["weights"]

    def _start(self, view: View) -> Tensor:
        weights = uniform(len(view.domains)) if self.start == "uniform" else view.prior
        return bounded(weights, self.floor, self.cap)

    def _refresh(self, view: View, state: State) -> None:
        number, num_domains = int(state["refreshes"]), len(view.domains)
        found = refresh(view, state, self, number)
        nothing = torch.zeros(num_domains, dtype=torch.float64)
        raw = domain_mean(found.scores, found.rows.domains, num_domains, nothing)
        slope, bend = self._model(view, found, raw)
        scores = standardized(slope) if self.standardize else slope
        if self.standardize:  # in the units that the scores are in now; where they are equal, 0
            bend = bend / slope.std(correction=0) if bool(scores.any()) else torch.zeros_like(bend)
        if self.permute_domains:
            scores = scores[state["permutation"]]
            bend = bend[state["permutation"]][:, state["permutation"]]
        memory = self.memory if number else 0.0
        state["scores"] = memory * state["scores"] + (1 - memory) * scores
        state["refreshes"] = torch.tensor(number + 1)
        state["weights"] = self.updated(state["scores"], state["weights"], self._start(view), bend)
        errors = standard_errors(found.scores, found.rows, num_domains)
        facts = {"raw_scores": raw.tolist(), "standard_errors": errors}
        facts |= {name: state[name].tolist() for name in ("scores", "weights")}
        if self.rule == "seed000":
            facts["reproduction"] = "seed 000: noise gets these weights too"
        view.note("rebalance", {**facts, **found.about})
        if found.fidelity:
            view.note("fidelity", found.fidelity)

    def _model(self, view: View, found: Refreshed, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return p [K] and rate * Q [K, K] of the quadratic model: the scores and 0 by default."""
        if not self.second_order:
            return raw, torch.zeros(len(raw), len(raw), dtype=torch.float64)
        terms = of_domains(view, found.rows, found.query, self.estimator.preconditioner)
        rate = float(view.optimizer.param_groups[0]["lr"])
        return raw - rate * terms.drift, rate * terms.curvature
