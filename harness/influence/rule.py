"""From domain scores to the next mixture: the update rules of a rebalancer and their settings.

K domains; `bend` [K, K] is rate * Q of the quadratic model (harness/influence/second_order.py), for
`qp` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.domains import bounded, exponentiated, min_shifted
from harness.influence.second_order import simplex_qp

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive = Annotated[float, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Rule:
    """How scores move the weights, and between which bounds."""

    rule: Literal["softmax", "exponentiated", "qp", "seed000"] = "softmax"
    """How scores become weights."""
    temperature: Positive = 1.0
    """For softmax and exponentiated; smaller follows the scores more sharply."""
    strength: Positive = 4.0
    """For qp: pull towards the anchor (lambda)."""
    anchor: Literal["current", "start"] = "current"
    """For qp: the mixture that the pull is towards. Equal scores add up from the current one, and
    have one answer from the start."""
    floor: Share = 0.02
    """No domain gets less."""
    cap: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """No domain gets more."""

    def check_bounds(self, num_domains: int) -> None:
        """Refuse bounds between which there is no mixture."""
        if not self.floor * num_domains <= 1 <= self.cap * num_domains:
            raise ValueError(
                f"floor {self.floor} and cap {self.cap} leave no mixture of {num_domains} domains"
            )

    def updated(self, scores: Tensor, weights: Tensor, start: Tensor, bend: Tensor) -> Tensor:
        """Return the weights [K] that follow from scores [K], present weights and the start's."""
        if self.rule == "seed000":
            return min_shifted(scores)
        if self.rule == "qp":
            anchor = weights if self.anchor == "current" else start
            return simplex_qp(scores, bend, self.strength, anchor, self.floor, self.cap).weights
        gains = scores / self.temperature
        if self.rule == "softmax":
            return bounded(torch.softmax(gains, 0), self.floor, self.cap)
        return bounded(exponentiated(weights.clamp(min=1e-300), gains), self.floor, self.cap)
