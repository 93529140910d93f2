"""What methods share that learn from other runs or from the probe set: no method of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from baselines.static import Static
from harness.api import Mixer
from harness.domains import domain_mean

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, View

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(strict=True, gt=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Objective = Literal["target", "domains"]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Proxied(Mixer):
    """A method that trains smaller or shorter runs before the main one."""

    proxy_size: Literal["nano", "micro", "mini", "small", "124m", "350m", "1b"] | None = None
    """Model size of the runs before the main one; unset for the main model's own."""
    proxy_steps: Count | None = None
    """Their optimizer steps; unset for the main run's."""

    def small(self, spec: Any) -> Any:
        """Return the spec at the proxies' size and length."""
        model = spec.model
        if self.proxy_size is not None:
            if model.source is not None:
                raise ValueError("proxy_size: model.source brings its own size; unset one of them")
            model = replace(model, size=self.proxy_size, config={})
        return replace(spec, model=model, num_steps=self.proxy_steps or spec.num_steps)


def trained_domains(spec: Any) -> tuple[str, ...]:
    """Return the K domains that a spec trains on, in the order of every [K] tensor."""
    return tuple(sorted(name for name, domain in spec.corpus.domains.items() if domain.train))


def static_at(weights: Tensor, domains: tuple[str, ...]) -> Static:
    """Return the static mixture at weights [K]."""
    return Static(weights=dict(zip(domains, weights.tolist(), strict=True)))


def trained_at(
    spec: Any, run: Callable[[Any], Any], mixtures: list[Static], role: str, **changes: Any
) -> list[Any]:
    """Train a run of each mixture; return their results, with losses on the fixed probe set.

    All are asked for before the first is read, so that `steelyard plan` can list them.
    """
    found = []
    for i, mixture in enumerate(mixtures):
        label = f"{role} {i + 1}" if len(mixtures) > 1 else role
        found.append(run(spec.auxiliary(label, mixer=mixture, measure_probes=True, **changes)))
    return found


def objective_weights(
    objective: Objective, trained: tuple[str, ...], targets: dict[str, float]
) -> dict[str, float]:
    """Return the weight of each domain's loss, sum 1: the run's target, or all trained alike."""
    return targets if objective == "target" else dict.fromkeys(trained, 1 / len(trained))


def objective_of(view: View, objective: Objective) -> Tensor:
    """Return the same as weights over the view's probe domains [M]."""
    targets = dict(zip(view.probe_domains, view.targets.tolist(), strict=True))
    chosen = objective_weights(objective, view.domains, targets)
    return torch.tensor([chosen.get(d, 0.0) for d in view.probe_domains], dtype=torch.float64)


def probe_losses(view: View, rows: int, wanted: Tensor | None = None) -> Tensor:
    """Return mean losses on the fixed probe set [M]; 0 for domains where `wanted` [M] is 0."""
    num_domains = len(view.probe_domains)
    batch = view.probes(rows, fixed=True)
    if wanted is not None:
        batch = of_domains(batch, wanted > 0)
    nothing = torch.zeros(num_domains, dtype=torch.float64)
    return domain_mean(view.token_losses(batch), batch.domains, num_domains, nothing, batch.mask)


def of_domains(batch: Batch, chosen: Tensor) -> Batch:
    """Return the rows of chosen domains [M] bool."""
    return batch.select(chosen.to(batch.domains.device)[batch.domains].nonzero()[:, 0])
