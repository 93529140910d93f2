"""Fixed rows, in fixed order, at chosen steps: nats per token and bits per byte of each domain.

Bits per byte divide by the UTF-8 bytes of the counted targets, so that tokenizers compare. The
end-of-text token counts as a target with no bytes: knowing where a document ends is part of
predicting it. Only the loop holds an evaluator; no method, auxiliary run or trial can reach it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.model import token_losses

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Batch
    from harness.cost import Meter
    from harness.model import RowFlops
    from harness.stream import Shelf


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on rows spread evenly over each domain's split."""

    shelves: dict[str, Shelf]  # split -> rows
    domains: tuple[str, ...]
    rows: int  # per domain and split; all where there are fewer
    chunk_rows: int
    token_bytes: np.ndarray  # [vocabulary] UTF-8 bytes of each token
    row_flops: RowFlops
    device: str
    precision: str

    def evaluate(self, model: nn.Module, meter: Meter) -> list[dict[str, Any]]:
        """Return one record for each split and domain."""
        return [
            {"split": split, "domain": domain, **self._measure(model, shelf, domain, meter)}
            for split, shelf in self.shelves.items()
            for domain in self.domains
        ]

    def _measure(
        self, model: nn.Module, shelf: Shelf, domain: str, meter: Meter
    ) -> dict[str, float | int]:
        telling = shelf.telling_rows(domain)
        size = len(telling)
        rows = telling[np.arange(min(self.rows, size)) * size // min(self.rows, size)]
        nats, num_tokens, num_bytes = 0.0, 0, 0
        for first in range(0, len(rows), self.chunk_rows):
            picks = [(domain, int(row)) for row in rows[first : first + self.chunk_rows]]
            batch = shelf.batch(picks, self.domains, self.device)
            nats += self._sum_of_losses(model, batch)
            num_tokens += int(batch.mask.sum())
            counted = batch.targets[batch.mask].cpu().numpy()
            num_bytes += int(self.token_bytes[counted].sum())
        meter.charge("eval", self.row_flops.forward * len(rows), num_tokens)
        if not math.isfinite(nats):
            raise FloatingPointError(f"the loss on domain {domain!r} is {nats} at evaluation")
        return {
            "nats_per_token": nats / num_tokens,
            "bits_per_byte": nats / math.log(2) / num_bytes,
            "num_tokens": num_tokens,
            "num_bytes": num_bytes,
        }

    def _sum_of_losses(self, model: nn.Module, batch: Batch) -> float:
        enabled = self.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=enabled):
            return float(token_losses(model, batch).double().sum())
