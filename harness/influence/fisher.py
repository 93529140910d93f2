"""The rows that a Fisher is fitted on, and the labels that its gradients are taken for.

A row's loss is the sum over its counted targets, and the Fisher the mean over rows of the outer
product of that loss's gradient. For the true Fisher labels are drawn from the model's own output
(arXiv:1503.05671), for the empirical one they are the row's. What is drawn depends on (data seed,
step, domain, row, token) alone, so it is the same in every pass, batch and order, and no generator
moves. Rows without a counted target have no gradient; they are left out and counted, not averaged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from harness.cross_entropy import cross_entropy
from harness.influence.counter_hash import words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, View

Labels = Literal["sampled", "empirical"]


class Pool(NamedTuple):
    """What a fit looks at."""

    rows: Batch  # those with a counted target
    skipped: int  # those without
    live: Tensor | None  # [N, T] bool, tokens a counted target can see; None: all of them
    key: int  # of the labels drawn
    labels: Labels


def countable(view: View, rows: Batch, labels: Labels) -> Pool:
    """Return the pool of a fit; ValueError where no row has a counted target.

    Where targets are the next tokens, those behind a row's last counted one are padding, or as
    good as: no loss depends on them, and they stay out of the covariance of the inputs. A masked
    language model looks both ways, and all stay. Padding on the left cannot be told from text.
    """
    counted = rows.mask.any(1)
    if not bool(counted.any()):
        raise ValueError(f"none of the {len(counted)} rows of the pool has a counted target")
    kept = rows.select(counted) if not bool(counted.all()) else rows
    is_next = (kept.inputs[:, 1:] == kept.targets[:, :-1]) | ~kept.mask[:, :-1]
    live = kept.mask.flip(1).cumsum(1).flip(1) > 0
    draw = torch.randint(2**62, (1,), generator=view.rng("ekfac labels"))
    padded = None if bool(live.all()) or not bool(is_next.all()) else live
    return Pool(kept, int((~counted).sum()), padded, int(draw), labels)


def keys(rows: Batch) -> Tensor:
    """Return the number of each row's first token [B] int64, the same in any batch."""
    return (rows.domains.cpu() * 2**40 + rows.rows.cpu()) * rows.targets.shape[1]


def drawn(logits: Tensor, first: Tensor, key: int) -> Tensor:
    """Return a label for each token [B, T] int64 from softmax(logits [B, T, V])."""
    tokens = logits.shape[1]
    numbers = torch.stack([words(key, int(i), int(i) + tokens) for i in first])
    # 52 of the 64 bits: a float64 holds them, and the result stays below 1
    uniform = numbers.bitwise_and(2**52 - 1).double().to(logits.device) / 2**52  # [B, T]
    cumulated = torch.softmax(logits.float(), -1).cumsum(-1)  # [B, T, V]
    wanted = (uniform * cumulated[..., -1]).float()
    found = torch.searchsorted(cumulated, wanted[..., None], right=True)[..., 0]
    return found.clamp(max=logits.shape[-1] - 1)


def summed_losses(model: nn.Module, rows: Batch, sampled: Tensor | None, key: int) -> Tensor:
    """Return each row's loss [B], the sum over counted targets.

    With `sampled`, the first token's number of each row, labels are drawn from the model.
    """
    logits = model(input_ids=rows.inputs, use_cache=False).logits
    targets = rows.targets if sampled is None else drawn(logits.detach(), sampled, key)
    losses = cross_entropy(logits.flatten(0, 1), targets.where(rows.mask, 0).flatten())
    return losses.view_as(targets).where(rows.mask, 0.0).sum(1)


class Sampling:
    """A model that writes the labels it draws into the rows it is given, before its loss is taken.

    So one forward pass serves both: harness/influence/row_gradients.py calls the model first and
    reads `targets` after.
    """

    def __init__(self, model: nn.Module, rows: Batch, key: int) -> None:
        """Draw for these rows; `rows.targets` is written to, so give a copy."""
        self.model, self.rows, self.key = model, rows, key

    def __call__(self, **inputs: Any) -> Any:
        """Return the model's output."""
        output = self.model(**inputs)
        labels = drawn(output.logits.detach(), keys(self.rows), self.key)
        self.rows.targets.copy_(labels)
        return output


def with_own_targets(rows: Batch) -> Batch:
    """Return the rows with a copy of their targets."""
    return replace(rows, targets=rows.targets.clone())
