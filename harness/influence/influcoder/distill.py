"""Teach an encoder the cosines of gradients, in blocks of queries by rows.

The loss of a block is
    weight (1 - Pearson over the whole block)
    + (1 - weight) mean over queries of KL(softmax(target / temp) || softmax(score / temp))
so the first part fixes the scale over the block and the second the order within each query, most
of all at its top. Half of the rows are hard: drawn from those that each of its queries has its
highest targets with, so that no one query's rows fill a block. The others are drawn from the rest.
The last step's encoder is what is returned: nothing is chosen on rows that are evaluated, which
costs the early stop that would sometimes help.

Source: arXiv:2606.13668, in the form and with the defaults of its code (dkachlerinria/influcoder,
influcoder/encoder.py at 00ec063: 8 queries, 16 rows, half of them hard, temp 0.05, weight 0.5,
AdamW, 10 % warm-up and linear decay, gradients clipped to 1, 8 epochs). Deviation: an epoch goes
on until every query and as many rows as the pool holds have been drawn, since with few queries one
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

WARM_UP = 0.1  # share of the steps; this and the next two are the official code's
WEIGHT_DECAY = 0.01
CLIP = 1.0
COUNTED = 16  # every 16th step's FLOPs are counted, which makes a small encoder's 4 times slower


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How an encoder is trained."""

    block_queries: int = 8
    block_rows: int = 16
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
    """Yield queries [k] and rows [m] of every block of the training, by seed alone."""
    num_queries, num_rows = targets.shape
    k, m = min(options.block_queries, num_queries), min(options.block_rows, num_rows)
    num_hard = round(options.hard_ratio * m)
    per_epoch = max(math.ceil(num_queries / k), math.ceil(num_rows / m))
    made = generator(options.seed, "influcoder blocks")
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(options.epochs * per_epoch):
        if len(waiting) < k:  # the rest of one round starts the next
            order = torch.randperm(num_queries, generator=made)
            waiting = torch.cat([waiting, order[~torch.isin(order, waiting)]])
        asked, waiting = waiting[:k], waiting[k:]
        hard = _hard(targets[asked], num_hard, made)
        others = torch.randperm(num_rows, generator=made)
        others = others[~torch.isin(others, hard)]
        yield asked, torch.cat([hard, others[: m - len(hard)]])


def _hard(targets: Tensor, most: int, made: torch.Generator) -> Tensor:
    """Return up to `most` of the rows that queries [k, N] have their highest targets with."""
    each = min(2 * (most // len(targets) + 1), targets.shape[1])
    found: Tensor = targets.topk(each, dim=1).indices.unique()  # type: ignore[no-untyped-call]
    return found[torch.randperm(len(found), generator=made)[:most]]


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
    for step, (asked, rows) in enumerate(plan):
        rate = min((step + 1) / warm, (len(plan) - step) / max(1, len(plan) - warm))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate
        counting: Any = counter() if step % COUNTED == 0 else nullcontext()
        with torch.enable_grad(), counting:
            scores = encoder(queries.select(asked)) @ encoder(pool.select(rows)).T
            loss = block_loss(scores, targets[asked][:, rows], options)
            if not loss.isfinite():
                raise FloatingPointError(f"influcoder: the loss of block {step} is {float(loss)}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if step % COUNTED == 0:
            counted.append(counting.get_total_flops())
    return len(plan) * sum(counted) / max(1, len(counted))
