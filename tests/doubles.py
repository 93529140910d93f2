"""A View without a run: what a method's arithmetic is tested on.

It offers exactly the protocol, so a method that touches anything else fails here, and it counts
the services that are asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.api import Batch, Direction
from harness.rng import generator


class Bigram(nn.Module):
    """A model that has what methods may read of one: an input embedding."""

    def __init__(self, vocabulary: int) -> None:
        """Make a table of `vocabulary` logits for each token."""
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table, as transformers' models do."""
        return self.table


@dataclass
class FakeView:
    """A View whose losses are given."""

    domains: tuple[str, ...] = ("a", "b", "c")
    probe_domains: tuple[str, ...] = ("a", "b", "c")
    targets: Tensor = field(default_factory=lambda: torch.tensor([0.0, 0.0, 1.0]).double())
    prior: Tensor = field(default_factory=lambda: torch.tensor([0.5, 0.3, 0.2]).double())
    step: int = 0
    num_steps: int = 100
    reference_losses: Tensor | None = None
    model: nn.Module = field(default_factory=lambda: Bigram(16))
    asked: Counter[str] = field(default_factory=Counter)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with nothing seen."""
        self.seen = torch.zeros(len(self.domains), dtype=torch.int64)
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def rng(self, name: str) -> torch.Generator:
        """Return a keyed generator."""
        return generator(0, name, self.step)

    def token_losses(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        along: Direction | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Return the given reference losses."""
        self.asked["token_losses"] += 1
        assert self.reference_losses is not None
        return self.reference_losses

    def finished(self, run_id: str) -> nn.Module:
        """Return a model; the losses are given."""
        self.asked["finished"] += 1
        return self.model

    @property
    def spent(self) -> float:
        """Nothing here has a price."""
        return 0.0

    def bill(self, flops: float, tokens: int = 0) -> None:
        """Count the call."""
        self.asked["bill"] += 1

    def note(self, name: str, values: dict[str, object]) -> None:
        """Keep the note."""
        self.notes.append((name, values))


def batch_of(domains: list[int], tokens: int = 2, mask: list[list[bool]] | None = None) -> Batch:
    """Return a batch whose rows come from the given domains."""
    inputs = torch.zeros((len(domains), tokens), dtype=torch.int64)
    counted = torch.ones_like(inputs, dtype=torch.bool) if mask is None else torch.tensor(mask)
    rows = torch.arange(len(domains))
    return Batch(inputs, inputs.clone(), counted, torch.tensor(domains), rows)
