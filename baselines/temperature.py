"""Temperature sampling: natural proportions, flattened.

p_k ~ q_k^(1/tau) with q the natural proportions (Conneau et al., "Unsupervised Cross-lingual
Representation Learning at Scale", ACL 2020, arXiv:1911.02116, section 3.1, where the exponent 1/tau
is called alpha and is .3; mT5, arXiv:2010.11934, has the same). It is a `static` mixture by another
name.

Needs: nothing. Cost: none. Defaults: tau 1/.3. Deviations: none.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from baselines.presets import Preset
from baselines.proxies import CONFIG, Positive
from baselines.static import Static


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Temperature(Preset):
    """Natural proportions, flattened."""

    tau: Positive = 1 / 0.3
    """1 keeps natural proportions, larger flattens them towards uniform."""

    def static(self) -> Static:
        """Return natural proportions to the power of 1 / tau."""
        return Static(weights="natural", temperature=self.tau)
