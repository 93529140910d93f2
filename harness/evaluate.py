"""Fixed rows, in fixed order, at chosen steps: nats per token and bits per byte of each domain.

Bits per byte divide by the UTF-8 bytes of the targets that count, so that tokenizers compare. The
end-of-text token of a BPE trained here is a target with no bytes: knowing where a document ends is
part of predicting it. At the end of a run the losses are kept by document as well: documents are
what a report resamples, since tokens of one are alike. The probe set, which a method may look at,
is measured then too, by the referee and at its cost: a method that has fitted it lies further below
held-out text there than others do. It is in nats alone, since a corpus keeps the bytes of tokens
only where results are reported. Only the loop holds an evaluator, and no method can reach it; the
one run without a loop's evaluator that is measured is a tuning plan's, on the tuning set alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.corruption import uniforms
from harness.model import token_losses
from harness.ranks import Ranks
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.corruption import Corruption
    from harness.cost import Account, Meter
    from harness.model import RowFlops
    from harness.stream import Shelf


class ByDocument:
    """Sums over the evaluated targets of each document of one domain's split."""

    def __init__(self, starts: np.ndarray) -> None:
        """Begin at 0; `starts` are where documents start in the stream, in tokens, ascending."""
        self._starts = starts
        self._nats = np.zeros(len(starts))
        self._num_bytes = np.zeros(len(starts), dtype=np.int64)
        self._targets = np.zeros(len(starts), dtype=np.int64)

    def add(self, batch: Batch, losses: Tensor, places: np.ndarray, spans: np.ndarray) -> None:
        """Add the losses [B, T] in nats of the targets that count.

        `places` [B, T] are where they stand in the stream, `spans` [B, T] their bytes.
        """
        mask = batch.mask.cpu().numpy()
        documents = np.searchsorted(self._starts, places[mask], side="right") - 1
        np.add.at(self._nats, documents, losses.double().cpu().numpy()[mask])
        np.add.at(self._num_bytes, documents, spans[mask])
        np.add.at(self._targets, documents, 1)

    def to_json(self) -> dict[str, list[int] | list[float]]:
        """Return the documents that had targets: number, nats to six digits, bytes."""
        seen = np.flatnonzero(self._targets)
        return {
            "documents": seen.tolist(),
            "nats": [float(f"{nats:.6g}") for nats in self._nats[seen]],
            "bytes": self._num_bytes[seen].tolist(),
        }


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on rows spread evenly over each domain's split."""

    shelves: dict[str, Shelf]  # split -> rows
    domains: tuple[str, ...]
    rows: int  # per domain and split; all where there are fewer
    chunk_rows: int
    num_bytes: Mapping[str, Mapping[str, np.ndarray]]  # split -> domain -> bytes by stream position
    row_flops: RowFlops
    device: str
    precision: str
    corruption: Corruption | None = None
    starts: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """split -> domain -> where documents start in the stream; where it lacks one, none are kept."""
    probe: Shelf | None = None
    """What a method could look at; None where it is not to be measured."""
    ranks: Ranks = field(default_factory=Ranks)

    def evaluate(
        self,
        model: nn.Module,
        meter: Meter,
        account: Account = "eval",
        apart: list[dict[str, Any]] | None = None,
    ) -> list[dict[str, Any]]:
        """Return one record for each split and domain; `account` pays.

        `apart`, where it is given, gets the losses by document, one record for each as well.
        """
        found = []
        for split in self.shelves:
            for domain in self.domains:
                starts = self.starts.get(split, {}).get(domain) if apart is not None else None
                documents = None if starts is None else ByDocument(starts)
                shelf = self.shelves[split]
                measured, flops = self._measure(model, shelf, split, domain, documents)
                meter.charge(account, flops, int(measured["num_tokens"]))
                found.append({"split": split, "domain": domain, **measured})
                if apart is not None and documents is not None:
                    apart.append({"split": split, "domain": domain, **documents.to_json()})
        return found

    def evaluate_probe(self, model: nn.Module, meter: Meter) -> list[dict[str, Any]]:
        """Return the loss on the probe set, one record for each domain; `eval` pays."""
        if self.probe is None:
            return []
        found = []
        for domain in self.domains:
            measured, flops = self._measure(model, self.probe, "probe", domain, None)
            meter.charge("eval", flops, int(measured["num_tokens"]))
            found.append({"domain": domain, **measured})
        return found

    def _measure(
        self, model: nn.Module, shelf: Shelf, split: str, domain: str, documents: ByDocument | None
    ) -> tuple[dict[str, float | int], float]:
        telling = shelf.telling_rows(domain)
        size = len(telling)
        rows = telling[np.arange(min(self.rows, size)) * size // min(self.rows, size)]
        nats, num_tokens, num_bytes = 0.0, 0, 0
        bytes_by_place = self.num_bytes.get(split, {}).get(domain)
        noise = self._noise(split, domain, len(rows), shelf.tokens)
        at_once = self.chunk_rows * self.ranks.size
        for first in range(0, len(rows), at_once):
            picks = [(domain, int(row)) for row in rows[first : first + at_once]]
            batch = shelf.batch(picks, self.domains, self.device)
            if self.corruption is not None:
                batch = self.corruption.apply(batch, noise[first : first + at_once])
            losses = self._losses(model, batch)
            nats += float(losses.double().sum())
            num_tokens += int(batch.mask.sum())
            if bytes_by_place is None:
                continue
            places = shelf.places(domain, batch.rows.cpu().numpy())
            spans = bytes_by_place[places]
            num_bytes += int(spans[batch.mask.cpu().numpy()].sum(dtype=np.int64))
            if documents is not None:
                documents.add(batch, losses, places, spans)
        if not math.isfinite(nats):
            raise FloatingPointError(f"the loss on domain {domain!r} is {nats} at evaluation")
        flops = self.row_flops.forward * len(rows)
        if bytes_by_place is None:
            return {"nats_per_token": nats / num_tokens, "num_tokens": num_tokens}, flops
        measured = {
            "nats_per_token": nats / num_tokens,
            "bits_per_byte": nats / math.log(2) / num_bytes,
            "num_tokens": num_tokens,
            "num_bytes": num_bytes,
        }
        return measured, flops

    def _noise(self, split: str, domain: str, rows: int, tokens: int) -> Tensor:
        """Return what hides the same tokens in every arm, seed and step; empty where none are."""
        if self.corruption is None:
            return torch.empty(0)
        return uniforms(rows, tokens, generator(0, "corrupt", split, domain))

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of each target [B, T] in nats, 0 where it does not count."""
        enabled = self.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=enabled):
            losses = token_losses(model, self.ranks.share(batch))
        return self.ranks.gathered(losses, len(batch.rows))
