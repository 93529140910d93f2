"""Weights that are given for every step, as stretches of equal ones: what replays are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG
from harness.api import Mixer
from harness.domains import projected
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View

Stretch = tuple[int, tuple[float, ...]]
"""Steps, and the weights [K] that they sample with."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Scheduled(Mixer):
    """A main run whose weights are given for every step."""

    domains: tuple[str, ...]
    """Whose weights they are, in order."""
    stretches: tuple[Stretch, ...]

    def init(self, view: View) -> State:
        """Lay the stretches out."""
        lasting = torch.tensor([steps for steps, _ in self.stretches])
        weights = torch.tensor([weights for _, weights in self.stretches], dtype=torch.float64)
        order = [self.domains.index(domain) for domain in view.domains]
        return {"ends": lasting.cumsum(0), "weights": weights[:, order]}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K] of this step's stretch."""
        return state["weights"][int((state["ends"] <= view.step).sum())]


def stretches(weights: Tensor) -> list[Stretch]:
    """Return runs of equal rows of weights [S, K], in order."""
    rows, counts = torch.unique_consecutive(weights, dim=0, return_counts=True)
    return list(zip(counts.tolist(), map(tuple, rows.tolist()), strict=True))


def walked(found: list[Stretch], domains: tuple[str, ...], seed: int) -> list[Stretch]:
    """Return the stretches with every change but the first weights replaced by a random one."""
    here = torch.tensor(found[0][1], dtype=torch.float64)
    walk = [found[0]]
    # by name, so that the walk does not depend on the domains' order
    keyed = [generator(seed, "random walk", domain) for domain in domains]
    for (_, before), (steps, after) in pairwise(found):
        length = torch.tensor([after, before], dtype=torch.float64).diff(dim=0).norm()
        here = _stepped(here, float(length), keyed)
        walk.append((steps, tuple(here.tolist())))
    return walk


def _stepped(here: Tensor, length: float, keyed: list[torch.Generator]) -> Tensor:
    there = here
    for _ in range(100):
        drawn = torch.cat([torch.randn(1, generator=one, dtype=torch.float64) for one in keyed])
        direction = drawn - drawn.mean()  # the sum of weights stays 1
        there = here + length * direction / direction.norm().clamp(min=1e-300)
        if bool((there >= 0).all()):
            return there
    return projected(there)
