"""Teach an encoder the cosines of gradients, in blocks of anchors by candidates.

The loss of a block is
    weight (1 - Pearson over the whole block)
    + (1 - weight) mean over anchors of KL(softmax(target / temp) || softmax(score / temp))
so the first part fixes the scale over the block and the second the order within each anchor, most
of all at its top. Half of the candidates are the block's hardest: those with the highest target for
any of its anchors. The others are drawn from the rest. The last step's encoder is what is returned:
nothing is chosen on rows that are evaluated, which costs the early stop that would sometimes help.

Source: arXiv:2606.13668 (8 anchors, 16 candidates, half of them hard, temp 0.05, weight 0.5, AdamW,
10 % warm-up and linear decay, gradients clipped to 1, 8 epochs). Deviation: an epoch goes on until
every anchor and as many candidates as the pool holds have been drawn, since with few anchors one
round of them would leave most of the pool out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.influence.flops import counter
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch
    from harness.influence.influcoder.encoder import Encoder

WARM_UP = 0.1  # share of the steps; this and the next two are the paper's
WEIGHT_DECAY = 0.01
CLIP = 1.0
COUNTED = 16  # every 16th step's FLOPs are counted, which makes a small encoder's 4 times slower


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How an encoder is trained."""

    anchors: int = 8
    candidates: int = 16
    hard_ratio: float = 0.5
    epochs: int = 8
    learning_rate: float = 5e-5
    temperature: float = 0.05
    pearson_weight: float = 0.5
    seed: int = 0


def block_loss(scores: Tensor, targets: Tensor, options: Distillation) -> Tensor:
    """Return the loss of one block, scores and targets [k, m]."""
    centred, wanted = scores - scores.mean(), targets - targets.mean()
    size = (centred.norm() * wanted.norm()).clamp(min=1e-12)
    pearson = (centred * wanted).sum() / size
    log_p = (targets / options.temperature).log_softmax(1)
    log_q = (scores / options.temperature).log_softmax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    weight = options.pearson_weight
    loss: Tensor = weight * (1 - pearson) + (1 - weight) * divergence
    return loss


def blocks(targets: Tensor, options: Distillation) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield anchors [k] and candidates [m] of every block of the training, by seed alone."""
    num_anchors, num_rows = targets.shape
    k, m = min(options.anchors, num_anchors), min(options.candidates, num_rows)
    num_hard = round(options.hard_ratio * m)
    per_epoch = max(math.ceil(num_anchors / k), math.ceil(num_rows / m))
    made = generator(options.seed, "influcoder blocks")
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(options.epochs * per_epoch):
        if len(waiting) < k:  # the rest of one round starts the next
            order = torch.randperm(num_anchors, generator=made)
            waiting = torch.cat([waiting, order[~torch.isin(order, waiting)]])
        anchors, waiting = waiting[:k], waiting[k:]
        hardest = targets[anchors].amax(0).argsort(descending=True, stable=True)
        rest = hardest[num_hard:]
        drawn = rest[torch.randperm(len(rest), generator=made)[: m - num_hard]]
        yield anchors, torch.cat([hardest[:num_hard], drawn])


def distill(
    encoder: Encoder, queries: Batch, pool: Batch, targets: Tensor, options: Distillation
) -> float:
    """Train the encoder in place on targets [queries, rows] and return the FLOPs it took.

    FloatingPointError where the loss of a block is not finite.
    """
    plan = list(blocks(targets.cpu(), options))
    parameters = list(encoder.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=WEIGHT_DECAY)
    warm = max(1, round(WARM_UP * len(plan)))
    counted: list[float] = []
    for step, (anchors, candidates) in enumerate(plan):
        rate = min((step + 1) / warm, (len(plan) - step) / max(1, len(plan) - warm))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate
        counting: Any = counter() if step % COUNTED == 0 else nullcontext()
        with torch.enable_grad(), counting:
            scores = encoder(queries.select(anchors)) @ encoder(pool.select(candidates)).T
            loss = block_loss(scores, targets[anchors][:, candidates], options)
            if not loss.isfinite():
                raise FloatingPointError(f"influcoder: the loss of block {step} is {float(loss)}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if step % COUNTED == 0:
            counted.append(counting.get_total_flops())
    return len(plan) * sum(counted) / max(1, len(counted))
