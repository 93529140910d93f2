"""The one training loop. Every method goes through it, and it has no branch on any of them.

A step asks the mixer for weights, draws a batch, lets the mixer see its losses, and updates. The
loss is one sum over the whole batch divided by the sum of its scale, so micro-batches change
nothing but memory. A checkpoint is taken between steps and only there.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from harness import checkpoint
from harness.api import Batch
from harness.cost import Meter
from harness.domains import domain_mean, domain_sums, row_weights, simplex
from harness.evaluate import Evaluator
from harness.model import token_losses
from harness.optim import learning_rate
from harness.records import CHECKPOINT, RECORDS, RecordWriter, read_records
from harness.stream import Stream
from harness.view import RunView

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import State
    from harness.spec import Checkpoint, RunSpec


class RunFailedError(RuntimeError):
    """A run cannot go on; the message says what happened at which step, in one line."""


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
    network: nn.Module  # what the training step calls: the model, compiled if asked
    state: State = field(default_factory=dict)
    _parameters: list[nn.Parameter] = field(default_factory=list)
    _writer: RecordWriter | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Train to the last step, from the last checkpoint if there is one."""
        try:
            self.start()
            while self.view.step < self.spec.num_steps:
                self.step()
                self._evaluate_if_due()
                if self.watch.stop() and self.view.step < self.spec.num_steps:
                    self.save()
                    raise InterruptedRunError
                if self._save_is_due():
                    self.save()
            self.meter.close()
            self.save()
        finally:
            self.close()

    def start(self) -> None:
        """Open the records and take up the last checkpoint, or evaluate the untrained model."""
        self._parameters = list(self.view.model.parameters())
        saved = checkpoint.load(self.folder / CHECKPOINT)
        self._writer = RecordWriter(self.folder / RECORDS, saved["records_bytes"] if saved else 0)
        if saved is None:
            with self.meter.section("mixer"):
                self.state = self.spec.mixer.init(self.view)
            self._write_notes()  # a checkpoint before the first step must not lose them
            self._evaluate_if_due()
            return
        self.view.step = saved["step"]
        self.view.model.load_state_dict(saved["model"])
        self.view.optimizer.load_state_dict(saved["optimizer"])
        self.view.seen.copy_(saved["seen"])
        self.state = saved["mixer"]
        self.meter.restore(saved["cost"])
        self.watch.resumed(read_records(self.folder / RECORDS))

    def close(self) -> None:
        """Put the records on the disk."""
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
        """Take one optimizer step and record it."""
        view, spec, meter = self.view, self.spec, self.meter
        with meter.section("mixer"):
            proposed = spec.mixer.propose(view, self.state)
            weights = simplex(proposed, view.domains, f"weights proposed at step {view.step}")
        with meter.section("train"):
            batch = self.stream.draw(weights, view.seen, view.step, spec.batch.rows)
            rate = learning_rate(spec.optimizer, view.step, spec.num_steps)
            for group in view.optimizer.param_groups:
                group["lr"] = rate
            losses, loss = self._backward(batch)
            norm = self._clip()
            view.optimizer.step()
            view.optimizer.zero_grad(set_to_none=True)
            meter.charge("train", sum(view.row_flops) * spec.batch.rows, batch.targets.numel())
        view.step += 1
        with meter.section("save"):
            self._write_notes()
            self.write(self._describe_step(batch, losses, weights, loss, rate, norm))
            self._check_repetitions()

    def _backward(self, batch: Batch) -> tuple[Tensor, float]:
        """Accumulate the gradient of the batch's scaled mean loss; return token losses and loss."""
        size = self.spec.batch.micro_rows or len(batch.rows)
        if size >= len(batch.rows):
            losses = self._forward(batch)
            scale = self._observe(batch, losses.detach())[:, None] * batch.mask
            loss = self._descend(scale, losses, _total(scale))
            return losses.detach(), loss
        if self.spec.mixer.reweights:  # row weights depend on the losses of the whole batch
            scale = self._observe(batch, self.view.token_losses(batch))[:, None] * batch.mask
        else:
            scale = batch.mask.float()
        parts, loss, total = [], 0.0, _total(scale)
        for first in range(0, len(batch.rows), size):
            rows = slice(first, first + size)
            losses = self._forward(batch.select(rows))
            loss += self._descend(scale[rows], losses, total)
            parts.append(losses.detach())
        all_losses = torch.cat(parts)
        if not self.spec.mixer.reweights:
            self._observe(batch, all_losses)
        return all_losses, loss

    def _forward(self, batch: Batch) -> Tensor:
        enabled = self.spec.precision == "bfloat16"
        with torch.autocast(self.spec.device, torch.bfloat16, enabled=enabled):
            return token_losses(self.network, batch)

    def _descend(self, scale: Tensor, losses: Tensor, total: Tensor) -> float:
        loss = (scale * losses).sum() / total
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunFailedError(f"the training loss is {value} at step {self.view.step}")
        return value

    def _observe(self, batch: Batch, losses: Tensor) -> Tensor:
        """Show the mixer the batch's losses; return its loss weight of each row [B], checked."""
        mixer = self.spec.mixer
        with self.meter.section("mixer"):
            weight = mixer.observe(self.view, self.state, batch, losses).to(losses)
        where = f"{type(mixer).__name__}.observe at step {self.view.step}"
        return row_weights(weight, len(batch.rows), mixer.reweights, where)

    def _clip(self) -> float:
        """Clip the gradient as torch's clip_grad_norm_ does, to the bit; return its norm before.

        Walking the model for its parameters and multiplying by 1 take longer than the norm itself,
        in a small model.
        """
        limit = self.spec.optimizer.clip or math.inf
        total = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None]
        )
        norm = float(total)
        if not norm + 1e-6 <= limit:  # too long, or not a number
            torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, total)
        if not math.isfinite(norm):
            name = next(
                (n for n, p in self.view.model.named_parameters()
                 if p.grad is not None and not p.grad.isfinite().all()), "?",
            )  # fmt: skip
            where = f"at step {self.view.step}, first in parameter {name}"
            raise RunFailedError(f"the gradient norm is {norm} {where}")
        return norm

    def _describe_step(
        self, batch: Batch, losses: Tensor, weights: Tensor, loss: float, rate: float, norm: float
    ) -> dict[str, Any]:
        num_domains, step = len(self.view.domains), self.view.step
        sums, counts = domain_sums(losses, batch.domains, num_domains, batch.mask)
        return {
            "kind": "step",
            "step": step,
            "tokens": step * batch.targets.numel(),
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "weights": weights.tolist(),
            "rows": np.bincount(batch.domains.cpu().numpy(), minlength=num_domains).tolist(),
            "domain_losses": [
                sum_ / count if count else None
                for sum_, count in zip(sums.tolist(), counts.tolist(), strict=True)
            ],
        }

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
        if plan is None or self.evaluator is None:
            return
        if step % plan.every and step != self.spec.num_steps:
            return
        is_last = step == self.spec.num_steps
        by_document: list[dict[str, Any]] | None = [] if is_last else None
        with self.meter.section("eval", synchronize=True):
            records = self.evaluator.evaluate(self.view.model, self.meter, apart=by_document)
            probes = self.evaluator.evaluate_probe(self.view.model, self.meter) if is_last else []
        tokens = step * self.spec.batch.rows * self.spec.batch.tokens
        for record in records:
            self.write({"kind": "eval", "step": step, "tokens": tokens, **record})
        for record in by_document or ():
            self.write({"kind": "documents", "step": step, "tokens": tokens, **record})
        for record in probes:
            self.write({"kind": "probe", "step": step, "tokens": tokens, **record})

    def _save_is_due(self) -> bool:
        by_steps = self.every.steps and self.view.step % self.every.steps == 0
        by_time = self.every.minutes and time.monotonic() - self._saved_at > self.every.minutes * 60
        return bool(by_steps or by_time)

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        with self.meter.section("save"):
            self._save()

    def _save(self) -> None:
        assert self._writer is not None, "start() comes first"
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
        checkpoint.save(self.folder / CHECKPOINT, content)


def _total(scale: Tensor) -> Tensor:
    """Return the sum of a batch's scale; 1 where no target counts: the step's loss is then 0."""
    total = scale.sum()
    return torch.where(total > 0, total, 1.0)
