"""How long a training step of a shape takes here: the model and the optimizer, on random tokens."""

from __future__ import annotations

import time

import torch

from harness.api import Batch
from harness.assemble import prepare_torch
from harness.model import build_model, token_losses
from harness.optim import build_optimizer
from harness.spec import RunSpec

STEPS = 3


def seconds_per_step(spec: RunSpec, vocab_size: int) -> float:
    """Return the median seconds of three training steps, after one that is not counted.

    Without the method's own work, the drawing of rows, evaluation and checkpoints.
    """
    prepare_torch(spec)
    rows, tokens = spec.batch.micro_rows or spec.batch.rows, spec.batch.tokens
    model = build_model(spec.model, vocab_size, tokens, spec.seed).to(spec.device)
    optimizer = build_optimizer(model, spec.optimizer)
    inputs = torch.arange(rows * tokens, device=spec.device).view(rows, tokens) % vocab_size
    index = torch.zeros(rows, dtype=torch.int64, device=spec.device)
    batch = Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool), index, index)
    times = []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        for _ in range(spec.batch.rows // rows):
            with torch.autocast(spec.device, torch.bfloat16, enabled=spec.precision == "bfloat16"):
                loss = token_losses(model, batch).mean()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[STEPS // 2]
