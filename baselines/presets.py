"""Static mixtures with names of their own: two controls of targeted methods.

`target_only` trains on the target alone, which a mixture has to beat where the target has text
enough; `half_on_target` gives it half and divides the rest equally, which nobody had to compute and
a targeted method has to beat. Each is a `static` mixture and shares its runs.

Needs: a target that is trained on. Cost: none. Defaults: none. Deviations: none, there is no paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG
from baselines.static import Static
from harness.api import Mixer


class Preset(Mixer):
    """A name for a static mixture."""

    def static(self) -> Static:
        """Return the mixture."""
        raise NotImplementedError

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse what the static mixture refuses."""
        self.static().check(domains, targets)

    def foresee(self, prior: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        """Return the weights by domain."""
        return self.static().foresee(prior, targets)

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train at the static mixture."""
        return run(replace(spec, mixer=self.static()))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class TargetOnly(Preset):
    """The target alone."""

    is_control: ClassVar[bool] = True

    def static(self) -> Static:
        """Return all weight on the target."""
        return Static(weights="target")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class HalfOnTarget(Preset):
    """Half on the target, the rest divided equally."""

    is_control: ClassVar[bool] = True

    def static(self) -> Static:
        """Return half of the weight on the target."""
        return Static(weights="target", share=0.5)
