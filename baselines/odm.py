"""ODM: domains as arms of a bandit whose reward is their training loss.

Albalak et al., "Efficient Online Data Mixing For Language Model Pre-Training", 2023,
arXiv:2312.02406, Algorithm 1, which is Exp3 (Auer et al. 2002) with a moving average. After the
warm-up, at its t-th step (t = 1, 2, ...), with K domains, eps_0 = 1/K and loss_k the mean training
loss of domain k in a batch that was drawn with weights pi_t:

  reward:   R_k <- a R_k + (1 - a) loss_k / pi_t(k)                   only domains in the batch
  rate:     eps_t = min(1/K, sqrt(ln K / (K t)))
  weights:  pi_t+1(k) = (1 - K eps_t) exp(eps_t-1 R_k) / sum_j exp(eps_t-1 R_j) + eps_t

Two other algorithms go by the same name in the official code (alon-albalak/online-data-mixing,
megatron/data/data_sampling_utils.py at edbfdad): `cumulative`, which its 1B scripts named exp3
select, sums loss_k / (10 pi_t(k)) without forgetting; `ema_exp`, which its README points to and its
other scripts select, some with smoothing .5, averages exp(loss_k) without importance weights and
uses R_k / sum_j R_j in place of the softmax.

In both t counts the steps of the warm-up too, so that exploration is already small at its end.

Needs: training losses by domain. Cost: none.
Defaults: a .9, warm-up 2 % of the steps (the scripts: 2,000 steps) at natural proportions.
Deviations: in `paper` the rates' indices are the official code's, a step later than Algorithm 1's,
so that the second draw explores as the first does. In `ema_exp` R is kept as its logarithm, because
exp(loss) overflows where a loss is large; domains that were never drawn count as R = 0, as there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Mixer
from harness.domains import domain_mean, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

_REWARD_SCALE = 10.0  # of the official cumulative form, "so that it doesn't explode"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ODM(Mixer):
    """Sample by Exp3 on training losses."""

    variant: Literal["paper", "cumulative", "ema_exp"] = "paper"
    """The paper's reward, or one of the two others in its official code."""
    smoothing: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.9
    """Weight of the past in the moving average (a); not for `cumulative`."""
    warmup: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.02
    """Share of the steps before the first update, at natural proportions."""

    def init(self, view: View) -> State:
        """Start at natural proportions, without rewards."""
        nothing = -math.inf if self.variant == "ema_exp" else 0.0
        rewards = torch.full_like(view.prior, nothing)
        return {"weights": view.prior.clone(), "rewards": rewards, "updates": torch.tensor(0)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K] after the last update."""
        return state["weights"]

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Reward the domains of the batch, and update the weights for the next one."""
        if view.step >= int(self.warmup * view.num_steps):
            num_domains = len(view.domains)
            nan = torch.full_like(view.prior, math.nan)
            means = domain_mean(losses, batch.domains, num_domains, nan, batch.mask)
            rewards = self._reward(state["rewards"], means, state["weights"])
            state["rewards"] = torch.where(means.isnan(), state["rewards"], rewards)
            before, now = self._rates(view, int(state["updates"]))
            shares = self._shares(state["rewards"], before)
            state["weights"] = (1 - num_domains * now) * shares + now
            state["updates"] = state["updates"] + 1
        return super().observe(view, state, batch, losses)

    def _reward(self, rewards: Tensor, losses: Tensor, drawn_with: Tensor) -> Tensor:
        a = self.smoothing
        if self.variant == "ema_exp":  # log(a R + (1 - a) exp(loss))
            return torch.logaddexp(math.log(max(a, 1e-300)) + rewards, math.log(1 - a) + losses)
        weighted = losses / drawn_with  # by the probability that the arm was drawn with
        if self.variant == "cumulative":
            return rewards + weighted / _REWARD_SCALE
        return a * rewards + (1 - a) * weighted

    def _rates(self, view: View, updates: int) -> tuple[float, float]:
        """Return eps_t-1 and eps_t: t counts updates, in the official code all steps."""
        t = updates + 1 if self.variant == "paper" else view.step + 1
        num_domains = len(view.domains)
        return _rate(num_domains, t - 1 if updates else 0), _rate(num_domains, t)

    def _shares(self, rewards: Tensor, rate: float) -> Tensor:
        if self.variant != "ema_exp":
            return torch.softmax(rate * rewards, 0)
        return torch.softmax(rewards, 0) if rewards.max() > -math.inf else uniform(len(rewards))


def _rate(num_domains: int, t: int) -> float:
    """Return eps_t; eps_0 = 1/K."""
    if t == 0:
        return 1 / num_domains
    return min(1 / num_domains, math.sqrt(math.log(num_domains) / (num_domains * t)))
