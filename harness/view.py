"""The window through which a method sees a run: services that are billed, and nothing held out.

A view reaches the training and the probe shelf alone; the arrays of the tuning and the held-out
split are not behind any of its attributes. Every service charges the mixer's account with what it
computes, and the loop times the hooks that call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from harness.model import RowFlops, token_losses
from harness.ranks import Ranks
from harness.rng import generator
from harness.transfer import moved

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from harness.api import Batch, Direction, Note
    from harness.cost import Meter
    from harness.stream import Stream


@dataclass
class RunView:
    """Implements harness.api.View for a run in progress."""

    stream: Stream
    model: nn.Module
    optimizer: torch.optim.Optimizer
    meter: Meter
    row_flops: RowFlops
    targets: Tensor
    prior: Tensor
    seen: Tensor
    num_steps: int
    chunk_rows: int
    precision: str
    open_model: Callable[[str], tuple[nn.Module, RowFlops]]
    ranks: Ranks = field(default_factory=Ranks)
    step: int = 0
    notes: list[dict[str, Any]] = field(default_factory=list)  # the loop writes them to the records
    _finished: dict[str, tuple[nn.Module, RowFlops]] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that are trained on."""
        return self.stream.domains

    @property
    def probe_domains(self) -> tuple[str, ...]:
        """Trained domains, then those that only have a probe set."""
        return self.stream.probe_domains

    @property
    def train_rows(self) -> Tensor:
        """Train rows of each trained domain [K]."""
        return torch.tensor([self.stream.train.num_rows(domain) for domain in self.domains])

    def rng(self, name: str) -> Generator:
        """Return a CPU generator keyed by (data_seed, name, step)."""
        return generator(self.stream.data_seed, "mixer", name, self.step)

    def candidates(self, per_domain: int) -> Batch:
        """Return train rows off the training stream, new ones at every step."""
        return self.stream.candidates(per_domain, self.step)

    def probes(self, per_domain: int, fixed: bool = False) -> Batch:
        """Return probe rows, new ones at every step or always the same."""
        return self.stream.probes(per_domain, None if fixed else self.step)

    def token_losses(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        along: Direction | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Return losses [B, T] in nats, 0 where masked.

        With `along`, at parameters + eps * along and in float32 whatever the run's precision,
        since a small step drowns in bfloat16. The model's own tensors stay as they are.
        """
        batch = moved(batch, self.stream.device)
        flops = self.row_flops if model is None else self._flops_of(model)
        network = self.model if model is None else model
        num_rows, mine = len(batch.rows), self.ranks.share(batch)
        shifted: Any = nullcontext(network)
        if along is not None and eps != 0.0:
            shifted = self.ranks.moved(network, along, eps)
        enabled = self.precision == "bfloat16" and along is None
        autocast = torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=enabled)
        with self.meter.section("mixer", synchronize=True), torch.no_grad(), autocast:
            with shifted as network:
                chunks = [token_losses(network, chunk) for chunk in _chunks(mine, self.chunk_rows)]
            losses = self.ranks.gathered(torch.cat(chunks), num_rows)
        self.bill(flops.forward * num_rows, batch.targets.numel())
        return losses

    def gradient(self, batch: Batch) -> Direction:
        """Return d(mean loss over counted targets)/d(parameter) by name, float32."""
        batch = moved(batch, self.stream.device)
        num_targets = batch.mask.sum().clamp(min=1)  # none counts: the gradient is 0
        enabled = self.precision == "bfloat16"

        def loss_of(chunk: Batch) -> Tensor:
            with torch.autocast(chunk.inputs.device.type, torch.bfloat16, enabled=enabled):
                return token_losses(self.model, chunk).sum() / num_targets

        with self.meter.section("mixer", synchronize=True), torch.enable_grad():
            chunks = _chunks(self.ranks.share(batch), self.chunk_rows)
            gradient = self.ranks.gradient(self.model, (partial(loss_of, one) for one in chunks))
        self.bill(sum(self.row_flops) * len(batch.rows), batch.targets.numel())
        return gradient

    def finished(self, run_id: str) -> nn.Module:
        """Return the final model of a run that the plan asked for, frozen."""
        if run_id not in self._finished:
            with self.meter.section("mixer", synchronize=True):
                self._finished[run_id] = self.open_model(run_id)
        return self._finished[run_id][0]

    def _flops_of(self, model: nn.Module) -> RowFlops:
        for known, flops in self._finished.values():
            if known is model:
                return flops
        return self.row_flops

    @property
    def spent(self) -> float:
        """Operations charged to the mixer's account so far."""
        return self.meter.accounts["mixer"].flops

    def bill(self, flops: float, tokens: int = 0) -> None:
        """Charge the mixer's account."""
        self.meter.charge("mixer", flops, tokens)

    def note(self, name: str, values: Mapping[str, Note]) -> None:
        """Write the method's own numbers to the records."""
        note = {"kind": "note", "step": self.step, "name": name, "values": dict(values)}
        self.notes.append(note)


def _chunks(batch: Batch, rows: int) -> list[Batch]:
    return [batch.select(slice(i, i + rows)) for i in range(0, len(batch.rows), rows)]
