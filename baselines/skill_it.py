"""Skill-It: a graph of which domain helps which, learned from short runs, drives the mixture.

Chen et al., "Skill-it! A Data-Driven Skills Framework for Understanding and Training Language
Models", NeurIPS 2023, arXiv:2307.14430, Algorithm 1. With L_j the probe loss of domain j, L_j^0
that of the untrained model, and L_j^i that after H steps on domain i alone, the graph is

  A_ij = max(0, (L_j^0 - L_j^i) / L_j^0)            row i: what training on i takes off j's loss

and at the start and after every round, with the losses of the last `window` rounds,

  p_i ~ exp(eta sum_j A_ij sum_{t in window} L_j^t)       (Eq. 3; from equal weights each time)

where the start has L_j = 1. j runs over trained domains, or over the target's.

Needs: probe rows; K + 1 short runs. Cost: those runs (K runs of H steps, one of one step), and a
forward pass of the probe set each round. Defaults: eta .2 and window 3 (the official script for
pre-training), 10 rounds, H a tenth of the main run's steps.
Deviations: the loss is looked at once a round, while the official evaluations have a schedule of
their own; several targets weigh in by the run's weights; the untrained model is measured after one
step at a rate of 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic.dataclasses import dataclass

from baselines.proxies import (
    CONFIG,
    Count,
    Objective,
    Positive,
    Proxied,
    objective_weights,
    probe_losses,
    trained_at,
    trained_domains,
)
from baselines.static import Static
from harness.api import Mixer

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SkillIt(Proxied):
    """K + 1 short runs for the graph, then a main run whose mixture follows graph and losses."""

    objective: Objective = "target"
    """Whose losses count: the run's target (out of domain), or all trained domains."""
    eta: Positive = 0.2
    """Step size; larger follows the graph more sharply."""
    window: Count = 3
    """Rounds whose losses are summed."""
    rounds: Count = 10
    """Times that the weights are set in a run, the start included."""
    probe_rows: Count = 32
    """Probe rows of each domain."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Learn the graph, then train the main run."""
        domains = trained_domains(spec)
        small = replace(
            self.small(spec), num_steps=self.proxy_steps or max(1, spec.num_steps // 10)
        )
        alone = [Static(weights={domain: 1.0}) for domain in domains]
        still = replace(small.optimizer, learning_rate=1e-12, weight_decay=0.0)
        untrained = replace(small, num_steps=1, optimizer=still)
        (first,) = trained_at(untrained, run, [Static()], "untrained")
        after = trained_at(small, run, alone, "alone")
        before = first.probe_losses
        wanted = objective_weights(self.objective, domains, spec.targets)
        ends = [name for name, weight in sorted(wanted.items()) if weight > 0]
        wanted = {name: weight * len(ends) for name, weight in wanted.items()}  # 1 where alike
        graph = {
            domain: {j: wanted[j] * _drop(before[j], one.probe_losses[j]) for j in ends}
            for domain, one in zip(domains, after, strict=True)
        }
        shared = {name: getattr(self, name) for name in ("eta", "window", "rounds", "probe_rows")}
        main = SkillItMain(graph=graph, **shared)
        return run(replace(spec, mixer=main))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SkillItMain(Mixer):
    """The main run: weights from the graph and the latest losses."""

    graph: dict[str, dict[str, float]]
    """What training on a domain takes off the loss of each domain of the objective, as a share."""
    eta: float
    window: int
    rounds: int
    probe_rows: int

    def init(self, view: View) -> State:
        """Start from the graph and losses of 1."""
        graph = torch.tensor(
            [[self.graph[d].get(j, 0.0) for j in view.probe_domains] for d in view.domains]
        ).double()
        losses = torch.zeros(self.window, len(view.probe_domains), dtype=torch.float64)
        weights = torch.softmax(self.eta * graph.sum(1), 0)
        return {"graph": graph, "weights": weights, "losses": losses}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K], set anew when a round begins."""
        if view.step > 0 and view.step % -(-view.num_steps // self.rounds) == 0:
            ends = next(iter(self.graph.values()))
            wanted = torch.tensor([float(j in ends) for j in view.probe_domains])
            losses = probe_losses(view, self.probe_rows, wanted)
            state["losses"] = torch.cat([state["losses"][1:], losses[None]])
            gains = self.eta * state["graph"] @ state["losses"].sum(0)
            state["weights"] = torch.softmax(gains, 0)
        return state["weights"]


def _drop(before: float, after: float) -> float:
    """Return the share of a loss that is gone, never negative; 0 where there was none to lose."""
    return max(0.0, (before - after) / before) if before > 0 else 0.0
