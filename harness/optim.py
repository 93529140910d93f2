"""AdamW as everyone trains with it, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from harness.spec import Optimizer


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.AdamW:
    """Return fused AdamW; weight decay applies to matrices, not to biases, norms or vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=spec.learning_rate, betas=spec.betas, eps=spec.eps, fused=True
    )


def learning_rate(spec: Optimizer, step: int, num_steps: int) -> float:
    """Return the rate of update number `step` (0-based) of `num_steps`.

    Warm-up reaches the peak at its last step. Cosine and wsd end at `final_ratio` of the peak, and
    every cycle of cosine_with_restarts falls towards it, as transformers' scheduler does towards 0.
    """
    warmup = math.ceil(spec.warmup * num_steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.learning_rate
    if spec.schedule == "cosine_with_restarts":
        done = (step - warmup) / max(1, num_steps - warmup)  # below 1
        shape = (1 + math.cos(math.pi * (spec.cycles * done % 1.0))) / 2
        return spec.learning_rate * (spec.final_ratio + (1 - spec.final_ratio) * shape)
    length = num_steps - warmup if spec.schedule == "cosine" else math.ceil(spec.decay * num_steps)
    left = min(
        1.0, (num_steps - 1 - step) / max(1, length - 1)
    )  # 1 at the start of the fall, 0 at the end
    shape = (1 - math.cos(math.pi * left)) / 2 if spec.schedule == "cosine" else left
    return spec.learning_rate * (spec.final_ratio + (1 - spec.final_ratio) * shape)


def clip_on_device(
    parameters: list[nn.Parameter], limit: float, whole: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Clip the gradient to a total norm without asking the device for it.

    `whole` gathers what is spread over ranks. Return the norm before [] and that of each
    parameter's gradient [P], 0 where there is none.
    """
    norms = whole(gradient_norms(parameters))
    total = torch.linalg.vector_norm(norms)
    if limit < math.inf:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return total, norms


def gradient_norms(parameters: list[nn.Parameter]) -> Tensor:
    """Return the norm of each parameter's gradient [P], 0 where there is none."""
    there = {i: p.grad for i, p in enumerate(parameters) if p.grad is not None}
    found = dict(zip(there, torch._foreach_norm(list(there.values())), strict=True))
    nothing = torch.zeros((), device=parameters[0].device)
    return torch.stack([found.get(i, nothing) for i in range(len(parameters))])
