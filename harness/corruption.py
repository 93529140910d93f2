"""Masked language modelling: which tokens of a row are hidden, and what stands in their place.

BERT's way (arXiv:1810.04805, section 3.1): of the chosen positions 80 % show the mask token, 10 %
a random token and 10 % the token itself, and only chosen positions are predicted. Uniforms come in
from outside, keyed by whoever asks, so that paired arms hide the same positions. The number of
positions in a row is exact, not drawn: rows then weigh the same, and none has nothing to predict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.api import Batch

SHOWN_AS_MASK = 0.8
SHOWN_AS_RANDOM = 0.1


def uniforms(rows: int, tokens: int, keyed: Generator) -> Tensor:
    """Return what decides the corruption of `rows` rows, [rows, 3, tokens]."""
    return torch.rand(rows, 3, tokens, generator=keyed)


@dataclass(frozen=True)
class Corruption:
    """Hides a share `rate` of a row's counted targets, and at least one."""

    rate: float
    mask_token: int
    vocab_size: int  # random tokens come from below it

    def apply(self, batch: Batch, noise: Tensor) -> Batch:
        """Return the batch with its targets as inputs, hidden where they are to be predicted.

        A row's T targets are read in place, not shifted: what the batch's mask leaves out is read
        and never predicted.
        """
        which, how, other = noise.to(batch.targets.device).unbind(1)  # [B, T] each
        order = which.masked_fill(~batch.mask, 2.0).argsort(stable=True).argsort()
        countable = batch.mask.sum(1)
        wanted = (countable * self.rate).round().clamp(min=1).minimum(countable)
        chosen = order < wanted[:, None]
        random = (other * self.vocab_size).long()
        inputs = batch.targets.where(~(chosen & (how < SHOWN_AS_MASK)), self.mask_token)
        swapped = chosen & (how >= SHOWN_AS_MASK) & (how < SHOWN_AS_MASK + SHOWN_AS_RANDOM)
        return replace(batch, inputs=random.where(swapped, inputs), mask=chosen)
