"""A View without a run: what a method's arithmetic is tested on.

It offers exactly the protocol, so a method that touches anything else fails here, and it counts
the services that are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import Batch, Direction
from harness.rng import generator
from harness.spec import Model, Optimizer


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
    train_rows: Tensor = field(default_factory=lambda: torch.tensor([50, 30, 20]))
    step: int = 0
    num_steps: int = 100
    precision: str = "float32"
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


@dataclass
class ProbedView(FakeView):
    """A View whose probe set is a row of each domain, with given losses [M]."""

    probe_losses: Tensor = field(default_factory=lambda: torch.zeros(3))

    def probes(self, per_domain: int, fixed: bool = False) -> Batch:
        """Return a row of each probe domain."""
        self.asked["probes"] += 1
        return batch_of(list(range(len(self.probe_domains))))

    def token_losses(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        along: Direction | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Return each row's domain's loss."""
        self.asked["token_losses"] += len(batch.rows)
        return self.probe_losses[batch.domains][:, None].expand(-1, batch.inputs.shape[1])


@dataclass(frozen=True)
class PlanSpec:
    """Enough of a RunSpec for a plan; domains a, b, ... of which the last `unseen` only probe."""

    domains: str = "abc"
    unseen: str = ""
    targets: dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    mixer: Any = None
    model: Any = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    num_steps: int = 100
    data_seed: int = 0
    label: str = ""
    measure_probes: bool = False
    measure_tuning: bool = False
    measure_rows: int = 64
    is_evaluated: bool = True

    @property
    def evaluation(self) -> Any:
        """None on auxiliary runs."""
        return "there is one" if self.is_evaluated else None

    @property
    def corpus(self) -> Any:
        """The domains, and which of them are trained on."""
        names = self.domains + self.unseen
        return SimpleNamespace(
            domains={name: SimpleNamespace(train=name in self.domains) for name in names}
        )

    @property
    def batch(self) -> Any:
        """Eight rows."""
        return SimpleNamespace(rows=8)

    def auxiliary(self, label: str, **changes: Any) -> PlanSpec:
        """Return the spec as an auxiliary run."""
        return replace(self, is_evaluated=False, label=label, **changes)


@dataclass
class PlanRunner:
    """Answers a plan: losses are a function of the static mixture [K] that a run trains at."""

    losses: Callable[[Tensor], dict[str, float]] = lambda weights: {}
    prior: tuple[float, ...] = (0.5, 0.3, 0.2)
    state: dict[str, Tensor] = field(default_factory=dict)
    train_rows: int = 1000
    asked: list[PlanSpec] = field(default_factory=list)

    def __call__(self, spec: PlanSpec) -> Any:
        """Return a result of the asked run."""
        self.asked.append(spec)
        domains = tuple(spec.domains)
        weights = torch.tensor(self.prior, dtype=torch.float64)
        foreseen = None
        if spec.mixer is not None and spec.mixer.foresee is not None:
            prior = dict(zip(domains, self.prior, strict=True))
            foreseen = spec.mixer.foresee(prior, spec.targets)
        if foreseen is not None:
            weights = torch.tensor([foreseen[d] for d in domains], dtype=torch.float64)
            weights = weights / weights.sum()
        found = self.losses(weights)
        return SimpleNamespace(
            run_id=f"run{len(self.asked)}",
            domains=domains,
            state=self.state,
            weights=weights.expand(spec.num_steps, -1),
            train_rows=dict.fromkeys(domains, self.train_rows),
            probe_losses=found if spec.measure_probes else None,
            tuning_losses=found if spec.measure_tuning else None,
        )

    @property
    def main(self) -> PlanSpec:
        """The evaluated run, which is the only one and the last."""
        assert [spec.is_evaluated for spec in self.asked] == [False] * (len(self.asked) - 1) + [
            True
        ]
        return self.asked[-1]
