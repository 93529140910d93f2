"""Domains sampled by fixed weights: what an attributed run did on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.api import Mixer

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True)
class Sampled(Mixer):
    """Sample domains by the same weights at every step."""

    weights: tuple[float, ...]

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights."""
        return torch.tensor(self.weights, dtype=torch.float64)
