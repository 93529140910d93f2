"""A step that was taken and is not recorded yet: what it leaves to be read, and the record of it.

On a CPU it is read at once. On a GPU the host is ahead, and a number that is not finite is found
here: it stops the run, and names the step that made it and the first parameter whose gradient shows
it, from norms that were taken at that step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.domains import domain_sums

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.transfer import Outbound
    from harness.view import RunView


class RunFailedError(RuntimeError):
    """A run cannot go on; the message says what happened at which step, in one line."""


@dataclass(frozen=True)
class Queued:
    """What a step's record is made of; B rows, T tokens, K domains, P parameters."""

    batch: Batch  # on the host
    step: int  # the number of steps that have been taken with this one
    weights: list[float]  # [K]
    rate: float
    losses: list[Outbound]  # [B, T], in micro-batches
    loss: list[Outbound]  # [], of each micro-batch
    norm: Outbound  # [], of the gradient before it was clipped
    norms: Outbound  # [P], of each parameter's
    notes: tuple[dict[str, Any], ...]

    def read(self, view: RunView) -> dict[str, Any]:
        """Return the record; RunFailedError where a number is not finite."""
        loss = sum((float(part.read()) for part in self.loss), 0.0)
        norm = float(self.norm.read())
        check_loss(loss, self.step - 1)
        if not math.isfinite(norm):
            norms = self.norms.read()
            raise RunFailedError(told_norm(norm, norms, view.model, self.step - 1))
        parts = [part.read() for part in self.losses]
        losses = parts[0] if len(parts) == 1 else torch.cat(parts)
        num_domains = len(self.weights)
        sums, counts = domain_sums(losses, self.batch.domains, num_domains, self.batch.mask)
        return {
            "kind": "step",
            "step": self.step,
            "tokens": self.step * self.batch.targets.numel(),
            "loss": loss,
            "lr": self.rate,
            "grad_norm": norm,
            "weights": self.weights,
            "rows": np.bincount(self.batch.domains.numpy(), minlength=num_domains).tolist(),
            "domain_losses": [
                sum_ / count if count else None
                for sum_, count in zip(sums.tolist(), counts.tolist(), strict=True)
            ],
        }


def check_loss(loss: float, step: int) -> None:
    """Stop the run where its loss is no number; `step` counts those taken before."""
    if not math.isfinite(loss):
        raise RunFailedError(f"the training loss is {loss} at step {step}")


def told_norm(norm: float, norms: Tensor, model: nn.Module, step: int) -> str:
    """Say that a gradient's norm is no number, and in which parameter that is seen first."""
    named = zip((name for name, _ in model.named_parameters()), norms.isfinite(), strict=True)
    first = next((name for name, is_finite in named if not is_finite), "?")
    return f"the gradient norm is {norm} at step {step}, first in parameter {first}"
