"""Which rows a run sees: index arithmetic on (data_seed, step, seen), nothing else.

A batch picks the domain of each slot by inverse CDF on uniforms keyed by the step, then takes the
next row of that domain's keyed permutation. Equal weights therefore draw equal rows in every arm,
and the i-th row of a domain is the same whatever the arm did before: common random numbers, which
make paired comparisons tight. A shelf holds one split's arrays and nothing that leads to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from harness.api import Batch
from harness.corruption import uniforms
from harness.rng import generator
from harness.transfer import moved

if TYPE_CHECKING:
    from torch import Tensor

    from harness.corruption import Corruption


class Rows(Protocol):
    """What a stream asks of one split: how many rows there are, and some of them."""

    def num_rows(self, domain: str) -> int:
        """Return how many rows the domain has."""

    def telling_rows(self, domain: str) -> np.ndarray:
        """Return the rows that have a target that counts: those worth looking at."""

    def batch(self, picks: list[tuple[str, int]], names: tuple[str, ...], device: str) -> Batch:
        """Return the picked (domain, row) pairs in order; domains are indices into `names`."""


@dataclass(frozen=True)
class Shelf:
    """The packed rows of one split: `tokens` targets each, cut from one token stream per domain.

    Rows overlap by the one token that is the last target here and the first input there, so that
    every token but the first is a target exactly once.
    """

    streams: Mapping[str, np.ndarray]  # domain -> flat token ids, usually memory-mapped
    tokens: int
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Which tokens of a stream count as targets [bool]; a domain that is not there: all."""
    _telling: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def num_rows(self, domain: str) -> int:
        """Return how many whole rows the domain has."""
        return max(0, (len(self.streams[domain]) - 1) // self.tokens)

    def telling_rows(self, domain: str) -> np.ndarray:
        """Return the rows with a counted target, in order: a row that is all prompt has no loss."""
        size = self.num_rows(domain)
        if domain not in self.masks:
            return np.arange(size)
        if domain not in self._telling:
            counted = self.masks[domain][1 : size * self.tokens + 1].reshape(size, self.tokens)
            self._telling[domain] = np.flatnonzero(counted.any(1))
        return self._telling[domain]

    def num_tokens(self, domain: str) -> float:
        """Return how much text the domain has, for natural proportions."""
        return float(len(self.streams[domain]))

    def span(self, domain: str, row: int) -> tuple[int, int]:
        """Return where a row begins in its stream, and how many targets it has."""
        return row * self.tokens, self.tokens

    def places(self, domain: str, rows: np.ndarray) -> np.ndarray:
        """Return where in the stream the targets of `rows` stand [n, T]; padding stands anywhere.

        A row's first token is no target of its own.
        """
        first = np.array([self.span(domain, int(row))[0] for row in rows], dtype=np.int64)
        places: np.ndarray = first[:, None] + 1 + np.arange(self.tokens)
        return places.clip(max=len(self.streams[domain]) - 1)

    def batch(self, picks: list[tuple[str, int]], names: tuple[str, ...], device: str) -> Batch:
        """Return the picked (domain, row) pairs in order; domains are indices into `names`."""
        inputs = np.zeros((len(picks), self.tokens), dtype=np.int64)
        targets = np.zeros_like(inputs)
        mask = np.zeros(inputs.shape, dtype=np.bool_)
        for slot, (domain, row) in enumerate(picks):
            first, size = self.span(domain, row)
            tokens = self.streams[domain][first : first + size + 1]
            inputs[slot, :size], targets[slot, :size] = tokens[:-1], tokens[1:]
            counted = self.masks.get(domain)
            mask[slot, :size] = True if counted is None else counted[first + 1 : first + size + 1]
        order = {name: k for k, name in enumerate(names)}
        arrays = (
            inputs,
            targets,
            mask,
            np.array([order[domain] for domain, _ in picks], dtype=np.int64),
            np.array([row for _, row in picks], dtype=np.int64),
        )
        return moved(Batch(*(torch.from_numpy(array) for array in arrays)), device)


@dataclass(frozen=True)
class DocumentShelf(Shelf):
    """Rows that are one document each: cut after `tokens` targets, padded where it has fewer.

    A row's first token is no target, and padding is none. A document of one token is no row that
    tells anything.
    """

    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Domain -> where its documents begin in the stream, in tokens."""

    def num_rows(self, domain: str) -> int:
        """Return how many documents the domain has."""
        return len(self.starts[domain])

    def span(self, domain: str, row: int) -> tuple[int, int]:
        """Return where a document begins in its stream, and how many targets of it are kept."""
        starts = self.starts[domain]
        first = int(starts[row])
        end = int(starts[row + 1]) if row + 1 < len(starts) else len(self.streams[domain])
        return first, min(self.tokens, end - first - 1)

    def telling_rows(self, domain: str) -> np.ndarray:
        """Return the documents with a counted target among those that are kept, in order."""
        if domain not in self._telling:
            tells = [self._tells(domain, row) for row in range(self.num_rows(domain))]
            self._telling[domain] = np.flatnonzero(tells)
        return self._telling[domain]

    def _tells(self, domain: str, row: int) -> bool:
        first, size = self.span(domain, row)
        counted = self.masks.get(domain)
        return size > 0 and (counted is None or bool(counted[first + 1 : first + size + 1].any()))


@dataclass(frozen=True)
class Stream:
    """Training rows by weight, and the rows that a method may look at."""

    train: Rows
    probe: Rows
    domains: tuple[str, ...]  # trained on
    probe_domains: tuple[str, ...]
    data_seed: int
    device: str
    corruption: Corruption | None = None  # masked language models; None for the next token
    _orders: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict, repr=False)

    def draw(self, weights: Tensor, seen: Tensor, step: int, rows: int) -> Batch:
        """Return `rows` training rows of the mixture [K]; counts them in `seen` [K]."""
        return moved(self.draw_on_host(weights, seen, step, rows), self.device)

    def draw_on_host(self, weights: Tensor, seen: Tensor, step: int, rows: int) -> Batch:
        """Return what `draw` does, before it is moved to the device."""
        keyed = generator(self.data_seed, "draw", step)
        points = torch.rand(rows, dtype=torch.float64, generator=keyed)
        edges = weights.cumsum(0)
        edges = edges / edges[-1]  # ends at exactly 1, above every uniform
        picks, counts = [], seen.numpy()  # the tensor's own memory
        for k in np.searchsorted(edges.numpy(), points.numpy(), side="right"):
            picks.append((self.domains[k], self._nth_row(self.domains[k], int(counts[k]))))
            counts[k] += 1
        return self._hidden(self.train.batch(picks, self.domains, "cpu"), "draw", step)

    def _nth_row(self, domain: str, n: int) -> int:
        """Return the n-th training row of a domain: a keyed permutation per pass over its rows."""
        size = self.train.num_rows(domain)
        epoch, position = divmod(n, size)
        if domain not in self._orders or self._orders[domain][0] != epoch:
            keyed = generator(self.data_seed, "order", domain, epoch)
            self._orders[domain] = epoch, torch.randperm(size, generator=keyed).numpy()
        return int(self._orders[domain][1][position])

    def candidates(self, per_domain: int, step: int) -> Batch:
        """Return random train rows of each trained domain, off the training stream."""
        picks = self._sample(self.train, self.domains, per_domain, "candidates", step)
        batch = self.train.batch(picks, self.domains, "cpu")
        return moved(self._hidden(batch, "candidates", step), self.device)

    def probes(self, per_domain: int, step: int | None) -> Batch:
        """Return random probe rows of every probe domain; `step` None for the fixed set."""
        name = ("probes", "fixed") if step is None else ("probes", step)
        picks = self._sample(self.probe, self.probe_domains, per_domain, *name)
        batch = self.probe.batch(picks, self.probe_domains, "cpu")
        return moved(self._hidden(batch, *name), self.device)

    def _hidden(self, batch: Batch, *name: str | int) -> Batch:
        """Return the batch, with tokens hidden where the model is to predict hidden tokens."""
        if self.corruption is None:
            return batch
        keyed = generator(self.data_seed, "corrupt", *name)
        rows, tokens = batch.inputs.shape
        return self.corruption.apply(batch, uniforms(rows, tokens, keyed))

    def _sample(
        self, shelf: Rows, domains: tuple[str, ...], per_domain: int, *name: str | int
    ) -> list[tuple[str, int]]:
        picks = []
        for domain in domains:
            keyed = generator(self.data_seed, *name, domain)
            rows = shelf.telling_rows(domain)
            order = torch.randperm(len(rows), generator=keyed)[:per_domain]
            picks += [(domain, row) for row in rows[order.numpy()].tolist()]
        return picks
