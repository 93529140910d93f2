"""DoGE: domains whose gradients point where the target's do.

Fan, Pagliardini, Jaggi, "DoGE: Domain Reweighting with Generalization Estimation", ICML 2024,
arXiv:2310.15393, Algorithm 1; details follow the official code, Olivia-fsm/DoGE (src/trainer.py at
88400e9). A proxy draws domains uniformly. At each step, with g_k the mean gradient of domain k's
rows in the batch and g_T that of the target's probe rows, each clipped to norm 5,

  W_k = <g_k, g_T>,   s_k = clip(lr W_k / mean_j |g_j|, 0, 5 lr)
  alpha <- alpha exp(s / mu), normalised        (mirror descent, Eq. 4)

and the proxy steps on sum_k alpha_k loss_k. The main model trains on the mean of alpha over steps.

Needs: probe rows of the target; a gradient per domain and step. Cost: the proxy run, and another
forward and backward pass of each of its batches and of its probe rows: the paper takes the domains'
gradients from the step itself, which billing every look does not allow, so its own cost is lower by
one pass. Defaults: mu .05 (the code's; its shipped configuration has .01), proxy of the main size.
Deviations: `form = "online"` trains the main model as the paper trains its proxy, without another
run, and proxy settings are not looked at. A domain that is not in the batch keeps its last score;
the official batches hold all domains. The loss is divided by the alpha of the domains in the batch.
Several targets are averaged by the run's weights, where the official code sums over them; the
universal form aligns with the probe rows of all trained domains, a domain's own included; the
official code leaves the own ones out where targets and trained domains are the same, and its
shipped configuration aligns with one mixed batch. The average is over the alpha of all steps, the
uniform start included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass

from baselines.proxies import (
    CONFIG,
    Count,
    Objective,
    Positive,
    Proxied,
    objective_of,
    of_domains,
    static_at,
)
from harness.api import Mixer
from harness.domains import domain_sums, exponentiated, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, State, View

LARGEST_NORM = 5.0
LARGEST_SCORE = 5.0  # in learning rates


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DoGE(Proxied):
    """Proxy run weighted by gradient alignment, then a static main run at its mean weights."""

    form: Literal["proxy", "online"] = "proxy"
    """A proxy first, or the main run itself weighted so."""
    objective: Objective = "target"
    """What alignment is with: the run's target, or all trained domains alike (universal)."""
    mu: Positive = 0.05
    """Smaller follows the scores more sharply."""
    probe_rows: Count = 8
    """Probe rows of each domain of the objective at each step."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train the proxy, then the main run on its mean alpha."""
        mixer = DoGEProxy(objective=self.objective, mu=self.mu, probe_rows=self.probe_rows)
        if self.form == "online":
            return run(replace(spec, mixer=mixer))
        proxy = run(self.small(spec).auxiliary("proxy", mixer=mixer))
        mean = proxy.state["alpha_sum"] / proxy.state["alpha_sum"].sum()
        return run(replace(spec, mixer=static_at(mean, proxy.domains)))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DoGEProxy(Mixer):
    """Uniform sampling, rows weighted by the current alpha of their domain."""

    objective: Objective
    mu: float
    probe_rows: int
    reweights: ClassVar[bool] = True

    def init(self, view: View) -> State:
        """Start uniform, without scores."""
        start = uniform(len(view.domains))
        return {"alpha": start, "alpha_sum": start.clone(), "scores": torch.zeros_like(start)}

    def propose(self, view: View, state: State) -> Tensor:
        """Draw domains uniformly."""
        return uniform(len(view.domains))

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Update alpha by alignment; return each row's alpha over its domain's rows."""
        num_domains = len(view.domains)
        _, tokens = domain_sums(losses, batch.domains, num_domains, batch.mask)
        target = self._target(view)
        products, norms = {}, []
        for k in batch.domains.unique().tolist():
            gradient, norm = _clipped(view.gradient(batch.select(batch.domains == k)))
            products[k] = _dot(gradient, target)
            norms.append(norm)
        rate = float(view.optimizer.param_groups[0]["lr"])
        scale = sum(norms) / len(norms)
        for k, product in products.items():
            score = rate * product / scale if scale > 0 else 0.0
            state["scores"][k] = min(max(score, 0.0), LARGEST_SCORE * rate)
        state["alpha"] = exponentiated(state["alpha"], state["scores"] / self.mu)
        state["alpha_sum"] = state["alpha_sum"] + state["alpha"]
        # the mean loss over each domain's counted tokens, times alpha; the loop divides by the sum
        shares = torch.from_numpy(tokens.sum() / len(batch.rows) / np.maximum(tokens, 1))
        return (state["alpha"] * shares).to(losses)[batch.domains]

    def _target(self, view: View) -> Direction:
        """Return the gradient of the objective: of each of its domains, clipped, weighted."""
        wanted, probes = objective_of(view, self.objective), view.probes(self.probe_rows)
        total: dict[str, Tensor] = {}
        for k in wanted.nonzero()[:, 0].tolist():
            only = torch.arange(len(wanted)) == k
            gradient, _ = _clipped(view.gradient(of_domains(probes, only)))
            for name, part in gradient.items():
                total[name] = total.get(name, 0.0) + float(wanted[k]) * part
        return total


def _clipped(gradient: Direction) -> tuple[Direction, float]:
    """Return the gradient clipped to the largest norm, and the norm it has then."""
    norm = _dot(gradient, gradient) ** 0.5
    scale = min(1.0, LARGEST_NORM / norm) if norm > 0 else 1.0
    return {name: scale * part for name, part in gradient.items()}, norm * scale


def _dot(one: Direction, other: Direction) -> float:
    return sum(float((part * other[name]).sum(dtype=torch.float64)) for name, part in one.items())
