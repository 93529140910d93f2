"""A user's tokenized data sets as rows: cut of their padding, padded anew on the right.

A causal model's loss at a position depends on nothing to its right, so padding there needs no
attention mask and changes no number. What a row holds besides `input_ids`, `labels` and
`attention_mask` is not read.

Shapes: L tokens of a row, T = longest L - 1 targets of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.api import Batch
from harness.errors import SpecError
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # the label of a token that does not count, in transformers and here
SAMPLED_ROWS = 1000  # read of each data set to estimate its size


@dataclass(frozen=True)
class DataShelf:
    """One split of a user's data: a sequence of rows per domain."""

    split: str  # "train" or "probe", for messages
    data: Mapping[str, Any]  # domain -> has len() and [i], which gives a mapping with `input_ids`
    vocab_size: int | None = None  # of the model, where there is one yet

    def num_rows(self, domain: str) -> int:
        """Return how many rows the domain has; 0 where this split has none of it."""
        return len(self.data[domain]) if domain in self.data else 0

    def telling_rows(self, domain: str) -> np.ndarray:
        """Return all rows: which of them count is known when they are read."""
        return np.arange(self.num_rows(domain))

    def read(self, domain: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row's token ids and labels, [L] int64 each, without padding."""
        where = f"{self.split}[{domain!r}] row {row}"
        ids, labels = read_row(self.data[domain][row], where)
        largest = max(int(ids.max()), int(labels.max()))
        if self.vocab_size is not None and largest >= self.vocab_size:
            why = f"token {largest} is outside the model's vocabulary of {self.vocab_size}"
            raise SpecError(f"{where}: {why}; tokenize with the model's own tokenizer")
        return ids, labels

    def batch(self, picks: list[tuple[str, int]], names: tuple[str, ...], device: str) -> Batch:
        """Return the picked (domain, row) pairs in order; domains are indices into `names`."""
        if not picks:
            raise SpecError(f"{self.split}: no domain has any row to look at; give {self.split}=")
        ids, labels = pad([self.read(domain, row) for domain, row in picks])
        order = {name: k for k, name in enumerate(names)}
        counts = labels[:, 1:] != IGNORED
        tensors = (
            ids[:, :-1].contiguous(),
            torch.where(counts, labels[:, 1:], 0),
            counts,
            torch.tensor([order[domain] for domain, _ in picks]),
            torch.tensor([row for _, row in picks]),
        )
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def count_tokens(self, domain: str, seed: int) -> int:
        """Return how many tokens the domain has, estimated where it has over 1000 rows.

        SpecError where none of the rows looked at has a label that counts.
        """
        size = self.num_rows(domain)
        order = torch.randperm(size, generator=generator(seed, "count", self.split, domain))
        rows = [self.read(domain, row) for row in order[:SAMPLED_ROWS].tolist()]
        if all((labels[1:] == IGNORED).all() for _, labels in rows):
            where = f"{self.split}[{domain!r}]"
            raise SpecError(f"{where}: every label is {IGNORED}, so nothing counts; check labels")
        return round(size * sum(len(ids) for ids, _ in rows) / len(rows))


def read_row(item: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and labels [L] int64 of one row of a data set, without its padding."""
    if not isinstance(item, Mapping) or "input_ids" not in item:
        raise SpecError(f"{where}: has no input_ids; tokenize the data set first")
    ids = np.asarray(item["input_ids"], dtype=np.int64)
    labels = item.get("labels")
    labels = ids if labels is None else np.asarray(labels, dtype=np.int64)
    if ids.ndim != 1 or labels.shape != ids.shape:
        shapes = f"input_ids {list(ids.shape)} and labels {list(labels.shape)}"
        raise SpecError(f"{where}: {shapes} are not two lists of one length")
    mask = item.get("attention_mask")
    if mask is not None:
        (kept,) = np.nonzero(np.asarray(mask))
        if len(kept) and kept[-1] - kept[0] + 1 != len(kept):
            raise SpecError(f"{where}: attention_mask has a gap; only padding may be masked out")
        ids, labels = ids[kept], labels[kept]
    if len(ids) < 2:
        raise SpecError(f"{where}: {len(ids)} tokens leave nothing to predict; drop such rows")
    return ids, labels


def pad(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Return token ids and labels [B, T + 1] of rows, filled up on the right with 0 and -100."""
    shape = len(rows), max(len(ids) for ids, _ in rows)
    ids, labels = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    for slot, (row_ids, row_labels) in enumerate(rows):
        ids[slot, : len(row_ids)] = row_ids
        labels[slot, : len(row_labels)] = row_labels
    return torch.from_numpy(ids), torch.from_numpy(labels)


def collate(items: list[Any]) -> dict[str, Tensor]:
    """Return rows of any length as a model's inputs: the data collator for evaluation."""
    rows = [read_row(item, f"row {i} of the batch") for i, item in enumerate(items)]
    ids, labels = pad(rows)
    lengths = torch.tensor([len(row_ids) for row_ids, _ in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as transformers wants it: [B, T + 1], the model shifts the labels itself.

    The token after the last input is only ever a target: where it does not count, any id will do.
    """
    ids = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
    labels = torch.where(batch.mask, batch.targets, IGNORED)
    nothing = torch.full_like(labels[:, :1], IGNORED)  # nothing predicts a row's first token
    return {"input_ids": ids, "labels": torch.cat([nothing, labels], dim=1)}
