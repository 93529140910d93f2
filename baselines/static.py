"""Static mixtures: the same sampling weights at every step.

Uniform and natural weights are the baselines of every mixing paper; temperature sampling is
p_k proportional to q_k^(1/tau) with natural proportions q (multilingual BERT and mT5's form,
arXiv:2010.11934, section 3.1, where the exponent is called alpha = 1/tau). `target` puts a share
on the target domains and spreads the rest equally: share 1 trains on the target alone, share 0.5
is the control that any targeted method has to beat.

Defaults: uniform. Cost: none. Deviations: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Mixer
from harness.domains import uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Static(Mixer):
    """Constant sampling weights."""

    weights: (
        Literal["uniform", "natural", "target"]
        | dict[str, Annotated[float, Field(strict=True, ge=0)]]
    ) = "uniform"
    """A rule, or weights by domain: domains not named get 0, and the sum is scaled to 1."""
    temperature: Annotated[float, Field(strict=True, gt=0)] = 1.0
    """For `natural`: 1 keeps the natural proportions, larger flattens them towards uniform."""
    share: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """For `target`: share of the target domains; the others divide the rest equally."""

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse weights of unknown domains, and a target that is not trained on."""
        if isinstance(self.weights, dict):
            for name in self.weights:
                if name not in domains:
                    known = ", ".join(domains)
                    raise ValueError(f"weights: {name!r} is no trained domain; choose from {known}")
            if sum(self.weights.values()) <= 0:
                raise ValueError("weights: all are 0; give at least one domain a positive weight")
        if self.weights == "target" and not set(targets) & set(domains):
            raise ValueError("weights: the target is not trained on; set train = true on it")

    def init(self, view: View) -> State:
        """Fix the weights for the whole run."""
        return {"weights": self._weights(view)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the same weights [K] as ever."""
        return state["weights"]

    def _weights(self, view: View) -> Tensor:
        if isinstance(self.weights, dict):
            given = [self.weights.get(domain, 0.0) for domain in view.domains]
            return torch.tensor(given, dtype=torch.float64)
        if self.weights == "natural":
            return view.prior ** (1 / self.temperature)
        num_domains = len(view.domains)
        if self.weights == "uniform":
            return uniform(num_domains)
        target = view.targets[:num_domains]  # trained domains come first
        target = target / target.sum()
        others = (target == 0).to(torch.float64)
        if others.sum() == 0:
            return target
        return self.share * target + (1 - self.share) * others / others.sum()
