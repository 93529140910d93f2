"""The best static mixture that as many trials find as a method's tuning has: the control of tuning.

`trials` full runs of static mixtures, chosen by the objective's loss on the tuning set, as a sweep
chooses a method's settings; then the best of them is the main run. The first trials are uniform,
natural, half on the target and the target alone (the last two where the target is trained on); the
first half of the others are drawn from Dirichlet(1), the rest around the best so far, from
Dirichlet(1 + `focus` w).

Every seed of the main run has a search of its own, with that seed: it tunes as closely as can be.

Needs: the tuning set. Cost: `trials` runs; the winner is trained once more, evaluated. Defaults: 24
trials. Deviations: none, there is no paper. Give it the number of trials that each tuned method
has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import (
    CONFIG,
    Objective,
    Positive,
    Proxied,
    objective_weights,
    static_at,
    trained_domains,
)
from baselines.static import Static
from harness.rng import key


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class StaticTuned(Proxied):
    """Search over static mixtures on the tuning set, then a main run of the best."""

    trials: Annotated[int, Field(strict=True, ge=1)] = 24
    """Mixtures tried."""
    objective: Objective = "target"
    """Whose loss on the tuning set decides."""
    focus: Positive = 30.0
    """How close to the best so far the later draws are."""
    is_control: ClassVar[bool] = True
    tunes: ClassVar[bool] = True

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Try the mixtures, then train the best."""
        domains = trained_domains(spec)
        wanted = objective_weights(self.objective, domains, spec.targets)
        keyed = np.random.default_rng(key(spec.data_seed, "static mixtures"))
        broad, tried = _named(spec.targets, domains), []
        number = (self.trials + len(broad)) // 2
        while len(broad) < number:
            broad.append(_at(keyed.dirichlet(np.ones(len(domains))), domains))
        asked = [self._trial(spec, run, mixer, i) for i, mixer in enumerate(broad[: self.trials])]
        for result, mixer in zip(asked, broad, strict=False):
            tried.append((_loss(result, wanted), len(tried), mixer, result))
        while len(tried) < self.trials:
            best = min(tried)[3].weights[0].numpy()
            mixer = _at(keyed.dirichlet(1 + self.focus * best), domains)
            result = self._trial(spec, run, mixer, len(tried))
            tried.append((_loss(result, wanted), len(tried), mixer, result))
        return run(replace(spec, mixer=min(tried)[2]))

    def _trial(self, spec: Any, run: Callable[[Any], Any], mixer: Static, number: int) -> Any:
        small = self.small(spec)
        return run(small.auxiliary(f"trial {number + 1}", mixer=mixer, measure_tuning=True))


def _named(targets: dict[str, float], domains: tuple[str, ...]) -> list[Static]:
    named = [Static(), Static(weights="natural")]
    if set(targets) & set(domains):
        named += [Static(weights="target", share=0.5), Static(weights="target")]
    return named


def _at(weights: np.ndarray, domains: tuple[str, ...]) -> Static:
    return static_at(torch.from_numpy(weights), domains)


def _loss(result: Any, wanted: dict[str, float]) -> float:
    return sum(weight * result.tuning_losses[domain] for domain, weight in wanted.items())
