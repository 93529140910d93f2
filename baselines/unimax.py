"""UniMax: as uniform as the budget allows, with a cap on how often a domain repeats.

Chung et al., "UniMax: Fairer and more Effective Language Sampling for Large-Scale Multilingual
Pretraining", ICLR 2023, arXiv:2304.09151, Algorithm 1. From the smallest domain to the largest,
each gets an equal share of what is left of the budget, but no more than N passes over its rows:

  U_k = min(left / domains left, N n_k),   left <- left - U_k,   p_k = U_k / sum_j U_j

Needs: the domains' sizes. Cost: none. Defaults: N 4 (the paper tries 1, 5 and 10). Deviations:
sizes and budget are in rows, the paper's in characters. Where all domains are at their cap the
weights are scaled up, so the budget is spent and the cap is not kept, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Positive
from harness.api import Mixer

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class UniMax(Mixer):
    """Uniform sampling with at most `passes` over any domain."""

    is_fixed: ClassVar[bool] = True
    passes: Positive = 4.0
    """Most passes over a domain's rows (N)."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train at weights for the run's own budget."""
        budget = spec.num_steps * spec.batch.rows
        return run(replace(spec, mixer=UniMaxMain(passes=self.passes, budget_rows=budget)))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class UniMaxMain(Mixer):
    """The main run: constant weights for a budget."""

    passes: float
    budget_rows: int
    """Rows that the run draws."""

    def init(self, view: View) -> State:
        """Divide the budget."""
        return {"weights": divided(view.train_rows, self.budget_rows, self.passes)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the same weights [K] as ever."""
        return state["weights"]


def divided(sizes: Tensor, budget: float, passes: float) -> Tensor:
    """Return the weights [K] of domains of `sizes` [K] rows."""
    given, left = torch.zeros(len(sizes), dtype=torch.float64), float(budget)
    order = sizes.argsort(stable=True).tolist()
    for place, k in enumerate(order):
        given[k] = min(left / (len(order) - place), passes * float(sizes[k]))
        left -= float(given[k])
    return given / given.sum()
