"""Static mixtures with names of their own: two controls of targeted methods.

`target_only` trains on the target alone, which a mixture has to beat where the target has text
enough; `half_on_target` gives it half and divides the rest equally, which nobody had to compute and
a targeted method has to beat. Each is a `static` mixture by another name.

Needs: a target that is trained on. Cost: none. Defaults: none. Deviations: none, there is no paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG
from baselines.static import Static
from harness.api import Mixer

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


class Preset(Mixer):
    """A name for a static mixture."""

    is_fixed: ClassVar[bool] = True

    def static(self) -> Static:
        """Return the mixture."""
        raise NotImplementedError

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse a target that is not trained on, as the static mixture would."""
        if self.is_control and not set(targets) & set(domains):
            raise ValueError("the target is not trained on; set train = true on it")

    def foresee(self, prior: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        """Return the weights by domain."""
        return self.static().foresee(prior, targets)

    def init(self, view: View) -> State:
        """Fix the weights for the whole run."""
        return self.static().init(view)

    def propose(self, view: View, state: State) -> Tensor:
        """Return the same weights [K] as ever."""
        return state["weights"]


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
