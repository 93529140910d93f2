"""Static mixtures: the same sampling weights at every step.

Uniform and natural weights are the baselines of every mixing paper; `temperature` flattens natural
proportions q to p_k proportional to q_k^(1/tau) (see the method `temperature`). `target` puts a
share on the target domains and spreads the rest equally: share 1 trains on the target alone, share
0.5 is the control that any targeted method has to beat.

Needs: nothing. Cost: none. Defaults: uniform. Deviations: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Mixer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Static(Mixer):
    """Constant sampling weights."""

    is_fixed: ClassVar[bool] = True
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

    def foresee(self, prior: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        """Return the weights by domain, not scaled yet."""
        if isinstance(self.weights, dict):
            return {domain: self.weights.get(domain, 0.0) for domain in prior}
        if self.weights == "uniform":
            return dict.fromkeys(prior, 1 / len(prior))
        if self.weights == "natural":
            return {domain: share ** (1 / self.temperature) for domain, share in prior.items()}
        wanted = {domain: targets.get(domain, 0.0) for domain in prior}
        others = sum(weight == 0 for weight in wanted.values())
        share = self.share if others else 1.0
        total = sum(wanted.values())
        return {d: share * w / total if w else (1 - share) / others for d, w in wanted.items()}

    def init(self, view: View) -> State:
        """Fix the weights for the whole run."""
        prior = dict(zip(view.domains, view.prior.tolist(), strict=True))
        targets = dict(zip(view.probe_domains, view.targets.tolist(), strict=True))
        weights = list(self.foresee(prior, targets).values())
        return {"weights": torch.tensor(weights, dtype=torch.float64)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the same weights [K] as ever."""
        return state["weights"]
