"""Aioli: the mixing law of the moment, measured on the run itself, a few steps per domain.

Chen, Hu, Lourie, Cho, Re, "Aioli: A Unified Optimization Framework for Language Model Data Mixing",
ICLR 2025, arXiv:2411.05735, Algorithms 1 and 2; details follow the official code,
HazyResearch/aioli (trainer/aioli_trainer.py at a236112). Under the law L_i(t+1) = L_i(t) - sum_j
A_ij p_j (Eq. 2), every round starts with LearnParams: `lp_rounds` random orders of the domains; for
each domain `lp_steps` steps, which train the model, at a mixture that gives it `one_hot` and
divides the rest; B_ij is what probe loss i loses meanwhile, averaged over orders. With M the
mixtures' matrix (row j: the mixture of domain j), row i of A solves M A_i = B_i. A is shifted so
that its least entry is 0 (if that is negative) and divided by its sum, then

  p_j ~ exp(eta sum_i A_ij)        from equal weights, of a moving average of A (`ema`)
  p_j <- p_j exp(eta sum_i A_ij)   where `ema` is unset

until the round ends.

Needs: probe rows. Cost: K lp_rounds + 1 forward passes of the probe set a round. Defaults: the
official script of three domains: eta .1, ema .5, one_hot .5 (.625 of two, as its README has it), 4
orders of 6 steps, rounds of 250 steps. Deviations: a round's length is in steps throughout; the
official code subtracts steps from rows there. The orders are keyed by the domains' names. A last
round may be cut off by the end of the run, where the official code asks for whole rounds.

By construction the shipped settings stay near uniform: with `ema`, p ~ exp(eta c) where c sums to
1, so that three domains get between .322 and .356 (tests/baselines/test_aioli.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Count, Objective, Positive, Share, objective_of, probe_losses
from harness.api import Mixer
from harness.domains import exponentiated, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Aioli(Mixer):
    """Learn A on the trajectory, then follow its column sums for the rest of the round."""

    objective: Objective = "domains"
    """Whose losses count: all trained domains (the paper), or the run's target."""
    every: Count = 250
    """Steps of a round, LearnParams included."""
    lp_rounds: Count = 4
    """Orders of the domains in LearnParams."""
    lp_steps: Count = 6
    """Steps at each domain's mixture."""
    one_hot: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    """Weight of the domain that is looked at; unset for .5, or .625 of two domains."""
    eta: Positive = 0.1
    """Step size; larger follows A more sharply."""
    ema: Share | None = 0.5
    """Weight of the past in the moving average of A; unset for none."""
    probe_rows: Count = 32
    """Probe rows of each domain at each evaluation."""

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse rounds that LearnParams would fill, and mixtures that cannot be told apart."""
        needed = len(domains) * self.lp_rounds * self.lp_steps
        if needed >= self.every:
            fix = "raise every, or lower lp_rounds or lp_steps"
            raise ValueError(f"every: {self.every}, and LearnParams takes {needed} steps; {fix}")
        if len(domains) > 1 and abs((self.one_hot or 0) * len(domains) - 1) < 1e-9:
            found = f"{self.one_hot} is uniform for {len(domains)} domains"
            raise ValueError(f"one_hot: {found}; raise it, or unset it")

    def check_length(self, num_steps: int, domains: tuple[str, ...]) -> None:
        """Refuse a run that ends within LearnParams: its weights would be the slots' alone."""
        needed = len(domains) * self.lp_rounds * self.lp_steps
        if needed >= num_steps:
            raise ValueError(f"lp_steps: LearnParams takes {needed} of {num_steps} steps; lower it")

    def init(self, view: View) -> State:
        """Start uniform."""
        self.check_length(view.num_steps, view.domains)
        num_domains, num_probed = len(view.domains), len(view.probe_domains)
        matrix = torch.zeros(num_probed, num_domains, dtype=torch.float64)
        state = {"weights": uniform(num_domains), "drops": matrix, "law": matrix.clone()}
        state["order"] = torch.zeros(self.lp_rounds * num_domains, dtype=torch.int64)
        return {**state, "before": torch.zeros(num_probed).double(), "rounds": torch.tensor(0)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the mixture [K] of LearnParams while it lasts, then that of the round."""
        at, slots = view.step % self.every, len(state["order"])
        slot, inside = divmod(at, self.lp_steps)
        if inside == 0 and slot <= slots:
            self._look(view, state, slot)
        mixtures = self._mixtures(len(view.domains))
        return mixtures[state["order"][slot]] if slot < slots else state["weights"]

    def _look(self, view: View, state: State, slot: int) -> None:
        """Measure what the slot before took off the losses; set the weights after the last."""
        now = probe_losses(view, self.probe_rows, objective_of(view, self.objective))
        if slot == 0:
            state["order"], state["drops"] = self._order(view), torch.zeros_like(state["drops"])
        else:
            state["drops"][:, state["order"][slot - 1]] += (state["before"] - now) / self.lp_rounds
        state["before"] = now
        if slot == len(state["order"]):
            self._update(view, state)

    def _mixtures(self, num_domains: int) -> Tensor:
        """Return the mixture of each domain's slots [K, K]: row j looks at domain j."""
        share = self.one_hot or (0.625 if num_domains == 2 else 0.5)
        rest = (1 - share) / max(num_domains - 1, 1)
        mixtures = torch.full((num_domains, num_domains), rest).double().fill_diagonal_(share)
        return mixtures / mixtures.sum(1, keepdim=True)

    def _order(self, view: View) -> Tensor:
        keys = [
            torch.rand(self.lp_rounds, generator=view.rng(f"order of {domain}"))
            for domain in view.domains
        ]
        return torch.stack(keys, 1).argsort(1).flatten()

    def _update(self, view: View, state: State) -> None:
        law = solved(state["drops"], self._mixtures(len(view.domains)))
        used = objective_of(view, self.objective)
        law = _normalized(law[used > 0]) * (used[used > 0] * (used > 0).sum())[:, None]
        gains = torch.zeros_like(state["law"])
        gains[used > 0] = law
        weights = state["weights"]
        if self.ema is not None:
            past = self.ema if int(state["rounds"]) else 0.0
            gains = (1 - past) * gains + past * state["law"]
            weights = uniform(len(weights))
        state["law"], state["rounds"] = gains, state["rounds"] + 1
        state["weights"] = exponentiated(weights, self.eta * gains.sum(0))
        view.note("law", {"column_sums": gains.sum(0).tolist()})


def solved(drops: Tensor, mixtures: Tensor) -> Tensor:
    """Return A [M, K] where a slot of mixture j takes sum_k A_ik mixtures_jk = drops_ij off i."""
    return torch.linalg.solve(mixtures, drops.T).T


def _normalized(law: Tensor) -> Tensor:
    """Return A shifted to a least entry of 0 where it has negative ones, over its sum."""
    law = law - law.min().clamp(max=0)
    return law / law.sum().clamp(min=1e-300)
