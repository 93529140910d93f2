"""The one training loop. Every method goes through it, and it has no branch on any of them.

A step asks the mixer for weights, draws a batch, lets the mixer see its losses, and updates. The
loss is one sum over the whole batch divided by the sum of its scale, so micro-batches change
nothing but memory. A checkpoint is taken between steps and only there.

On a GPU a step is queued and not waited for: its numbers are read when the next ones are queued,
so that a run stops at a NaN a few steps late, and says at which step it came. A mixer that weighs
rows is waited for, since the loss depends on it; one that looks on sees the losses on the host.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from harness.api import Batch, Mixer
from harness.cost import Meter
from harness.domains import domain_mean, row_weights, simplex
from harness.evaluate import Evaluator
from harness.keeping import Keeper
from harness.optim import clip_on_device, gradient_norms, learning_rate
from harness.queued import Queued, RunFailedError, check_loss, told_norm
from harness.ranks import Ranks
from harness.records import CHECKPOINT, RECORDS, RecordWriter, read_records
from harness.stream import Stream
from harness.transfer import Outbound, moved
from harness.view import RunView

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from harness.api import State
    from harness.spec import Checkpoint, RunSpec

# Steps that a GPU may be behind the host: enough that it never waits, few to be told of a NaN soon.
STEPS_AHEAD = 2


class InterruptedRunError(Exception):
    """A run was asked to stop; it is saved and can be resumed."""


class Watch(Protocol):
    """Who looks on: hears of a run's header and every record, and may ask the run to stop."""

    def found(self, folder: Path) -> None:
        """Learn that the run was finished before."""

    def begin(self, header: dict[str, Any]) -> None:
        """Learn that the run starts, or resumes."""

    def end(self, header: dict[str, Any]) -> None:
        """Learn how the run ended."""

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Learn what an interrupted run had written before."""

    def record(self, record: dict[str, Any]) -> None:
        """Take note of a record that was just written."""

    def stop(self) -> bool:
        """Tell whether the run should save itself and end."""


@dataclass
class Loop:
    """One run in progress."""

    spec: RunSpec
    view: RunView
    stream: Stream
    evaluator: Evaluator | None
    meter: Meter
    watch: Watch
    folder: Path
    every: Checkpoint
    losses_of: Callable[[Batch], Tensor]  # what the training step calls, compiled if asked
    keeper: Keeper
    ranks: Ranks = field(default_factory=Ranks)
    state: State = field(default_factory=dict)
    _parameters: list[nn.Parameter] = field(default_factory=list)
    _queued: deque[Queued] = field(default_factory=deque)
    _writer: RecordWriter | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Train to the last step, from the last checkpoint if there is one."""
        try:
            self.start()
            while self.view.step < self.spec.num_steps:
                self.step()
                self._evaluate_if_due()
                stop, due = self.ranks.agreed(self.watch.stop(), self._save_is_due())
                if stop and self.view.step < self.spec.num_steps:
                    self.save()
                    raise InterruptedRunError
                if due:
                    self.save()
            self.meter.close()
            self.save()
        finally:
            self.close()

    def start(self) -> None:
        """Open the records and take up the last checkpoint, or evaluate the untrained model."""
        self._parameters = list(self.view.model.parameters())
        saved = self.ranks.load(self.folder / CHECKPOINT)
        written = saved["records_bytes"] if saved else 0
        self._writer = self.ranks.writer(self.folder / RECORDS, written)
        if saved is None:
            with self.meter.section("mixer"):
                self.state = self.spec.mixer.init(self.view)
            self._write_notes()  # a checkpoint before the first step must not lose them
            self._evaluate_if_due()
            return
        self.view.step = saved["step"]
        self.ranks.restore(saved, self.view.model, self.view.optimizer)
        self.view.seen.copy_(saved["seen"])
        self.state = saved["mixer"]
        self.meter.restore(saved["cost"])
        records = self.ranks.first(lambda: read_records(self.folder / RECORDS))
        self.keeper.take_up(records)
        self.watch.resumed(records)

    def close(self) -> None:
        """Put the records on the disk."""
        try:
            self._catch_up()
        finally:
            if self._writer is not None:
                self._writer.close()

    def measure_probes(self) -> dict[str, float]:
        """Return the mean loss on the fixed probe set by domain, in nats per token; billed."""
        batch = self.view.probes(self.spec.measure_rows, fixed=True)
        names = self.view.probe_domains
        nothing = torch.zeros(len(names))
        losses = self.view.token_losses(batch)
        means = domain_mean(losses, batch.domains, len(names), nothing, batch.mask)
        return dict(zip(names, means.tolist(), strict=True))

    def write(self, record: dict[str, Any]) -> None:
        """Write a record with the training seconds so far, and tell the watch."""
        record["seconds"] = round(self.meter.accounts["train"].seconds, 6)
        assert self._writer is not None, "start() comes first"
        self._writer.write(record)
        self.watch.record(record)

    def _write_notes(self) -> None:
        for note in self.view.notes:
            self.write(note)
        self.view.notes.clear()

    def step(self) -> None:
        """Take one optimizer step and record it, on a GPU when a later one has been queued."""
        view, spec, meter = self.view, self.spec, self.meter
        with meter.section("mixer"):
            proposed = spec.mixer.propose(view, self.state)
            weights = simplex(proposed, view.domains, f"weights proposed at step {view.step}")
            weights = self.ranks.decided(weights)
        with meter.section("train"):
            drawn = self.stream.draw_on_host(weights, view.seen, view.step, spec.batch.rows)
            batch = moved(drawn, spec.device)
            rate = learning_rate(spec.optimizer, view.step, spec.num_steps)
            for group in view.optimizer.param_groups:
                group["lr"] = rate
            losses, loss = self._backward(drawn, batch)
            norm, norms = self._clip()
            view.optimizer.step()
            view.optimizer.zero_grad(set_to_none=True)
            meter.charge("train", sum(view.row_flops) * spec.batch.rows, batch.targets.numel())
        view.step += 1
        found = (drawn, view.step, weights.tolist(), rate, losses, loss, norm, norms)
        self._queued.append(Queued(*found, tuple(view.notes)))
        view.notes.clear()
        self._catch_up(STEPS_AHEAD if self._is_ahead else 0)

    @property
    def _is_ahead(self) -> bool:
        return self.spec.device == "cuda"

    def _catch_up(self, most: int = 0) -> None:
        """Read and record what was queued, until at most `most` steps are left."""
        while len(self._queued) > most:
            queued = self._queued.popleft()
            try:
                with self.meter.section("train"):
                    record = queued.read(self.view)
            except RunFailedError:
                self._queued.clear()  # steps from where this one led
                raise
            with self.meter.section("save"):
                for note in queued.notes:
                    self.write(note)
                self.write(record)
                self._check_repetitions()

    def _backward(self, drawn: Batch, batch: Batch) -> tuple[list[Outbound], list[Outbound]]:
        """Accumulate the gradient of the batch's scaled mean loss.

        `drawn` is the batch on the host. Return token losses and loss, in micro-batches.
        """
        ranks, num_rows = self.ranks, len(batch.rows)
        size = (self.spec.batch.micro_rows or num_rows) * ranks.size
        if size >= num_rows and (self.spec.mixer.reweights or not self._is_ahead):
            losses = self._forward(ranks.share(batch))
            told = ranks.gathered(losses.detach(), num_rows)
            scale = self._observe(batch, told)[:, None] * batch.mask
            return [Outbound(told)], [self._descend(ranks.part(scale), losses, _total(scale))]
        if self.spec.mixer.reweights:  # row weights depend on the losses of the whole batch
            scale = self._observe(batch, self.view.token_losses(batch))[:, None] * batch.mask
        else:
            scale = batch.mask.float()
        parts, loss, total = [], [], _total(scale)
        for first in range(0, num_rows, size):
            rows = slice(first, first + size)
            with ranks.adding(is_last=first + size >= num_rows):
                losses = self._forward(ranks.share(batch.select(rows)))
                told = ranks.gathered(losses.detach(), len(batch.rows[rows]))
                parts.append(Outbound(told))  # before the backward pass is queued
                loss.append(self._descend(ranks.part(scale[rows]), losses, total))
        if not self.spec.mixer.reweights and not (self._is_ahead and self._looks_away):
            self._observe(drawn, torch.cat([part.read() for part in parts]))
        return parts, loss

    def _forward(self, batch: Batch) -> Tensor:
        enabled = self.spec.precision == "bfloat16"
        with torch.autocast(self.spec.device, torch.bfloat16, enabled=enabled):
            return self.losses_of(batch)

    def _descend(self, scale: Tensor, losses: Tensor, total: Tensor) -> Outbound:
        loss = (scale * losses).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        found = Outbound(self.ranks.added(loss.detach()))
        if not self._is_ahead:
            check_loss(float(found.read()), self.view.step)
        return found

    @property
    def _looks_away(self) -> bool:
        """Whether the mixer asks for no losses, so that nobody waits for them."""
        return type(self.spec.mixer).observe is Mixer.observe

    def _observe(self, batch: Batch, losses: Tensor) -> Tensor:
        """Show the mixer the batch's losses; return its loss weight of each row [B], checked."""
        mixer = self.spec.mixer
        if losses.is_cuda:
            self.meter.settle()  # its first look at them would wait
        with self.meter.section("mixer"):
            weight = mixer.observe(self.view, self.state, batch, losses).to(losses)
        where = f"{type(mixer).__name__}.observe at step {self.view.step}"
        weight = row_weights(weight, len(batch.rows), mixer.reweights, where)
        return self.ranks.decided(weight) if mixer.reweights else weight

    def _clip(self) -> tuple[Outbound, Outbound]:
        """Clip the gradient as torch's clip_grad_norm_ does, to the bit.

        Return its norm before, and the norm of each parameter's. Walking the model for its
        parameters and multiplying by 1 take longer than the norm itself, in a small model.
        """
        limit = self.spec.optimizer.clip or math.inf
        whole = self.ranks.whole
        if self._is_ahead:
            total, norms = clip_on_device(self._parameters, limit, whole)
            return Outbound(total), Outbound(norms)
        total = whole(
            torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        )
        norm = float(total)
        if not math.isfinite(norm):  # before clipping, which would spread it
            norms = whole(gradient_norms(self._parameters))
            raise RunFailedError(told_norm(norm, norms, self.view.model, self.view.step))
        if norm + 1e-6 > limit:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, total)
        return Outbound(total), Outbound(total[None])

    def _check_repetitions(self) -> None:
        cap = self.spec.max_repetitions
        if cap is None:
            return
        for domain, passes in self.repetitions().items():
            if passes > cap:
                raise RunFailedError(
                    f"domain {domain!r} was read {passes:.2f} times by step {self.view.step}, over "
                    f"max_repetitions = {cap}; give it more text, train shorter, or raise the cap"
                )

    def repetitions(self) -> dict[str, float]:
        """Return how many passes over each trained domain's rows the run has made."""
        return {
            domain: int(seen) / self.stream.train.num_rows(domain)
            for domain, seen in zip(self.view.domains, self.view.seen, strict=True)
        }

    def _evaluate_if_due(self) -> None:
        plan, step = self.spec.evaluation, self.view.step
        is_due = plan is not None and (step % plan.every == 0 or step == self.spec.num_steps)
        found = self._evaluate() if is_due else []
        for name in self.keeper.files(step, found):
            self.save(name)

    def _evaluate(self) -> list[dict[str, Any]]:
        """Evaluate and write the records; return those of the losses by split and domain."""
        step = self.view.step
        if self.evaluator is None:
            return []
        is_last = step == self.spec.num_steps
        by_document: list[dict[str, Any]] | None = [] if is_last else None
        self._catch_up()
        with self.meter.section("eval", synchronize=True):
            records = self.evaluator.evaluate(self.view.model, self.meter, apart=by_document)
            probes = self.evaluator.evaluate_probe(self.view.model, self.meter) if is_last else []
        tokens = step * self.spec.batch.rows * self.spec.batch.tokens
        losses = [{"kind": "eval", "step": step, "tokens": tokens, **record} for record in records]
        for record in losses:
            self.write(record)
        for record in by_document or ():
            self.write({"kind": "documents", "step": step, "tokens": tokens, **record})
        for record in probes:
            self.write({"kind": "probe", "step": step, "tokens": tokens, **record})
        return losses

    def _save_is_due(self) -> bool:
        by_steps = self.every.steps and self.view.step % self.every.steps == 0
        by_time = self.every.minutes and time.monotonic() - self._saved_at > self.every.minutes * 60
        return bool(by_steps or by_time)

    def save(self, name: str = CHECKPOINT) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        self._catch_up()
        with self.meter.section("save"):
            self._save(name)

    def _save(self, name: str) -> None:
        assert self._writer is not None, "start() comes first"
        if name == CHECKPOINT:
            self._saved_at = time.monotonic()
        content = {
            "step": self.view.step,
            "model": self.view.model.state_dict(),
            "optimizer": self.view.optimizer.state_dict(),
            "mixer": self.state,
            "seen": self.view.seen,
            "cost": self.meter.to_json(),
            "records_bytes": self._writer.position(),
        }
        self.ranks.save(self.folder / name, content)


def _total(scale: Tensor) -> Tensor:
    """Return the sum of a batch's scale; 1 where no target counts: the step's loss is then 0."""
    total = scale.sum()
    return torch.where(total > 0, total, 1.0)
