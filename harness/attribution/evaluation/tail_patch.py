"""Tail patch: one more step on the rows that are said to help; does the query get likelier?

As TrackStar has it (arXiv:2410.17413), but with one step on the `patched` top rows together: from
the attributed checkpoint, with its optimizer's moments, at the run's highest rate. The gain is the
rise of the query's mean log-probability in nats a token. Three random draws of as many rows are
what any step would have given.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.attribution.evaluation.removal import top
from harness.attribution.evaluation.retraining import query_losses
from harness.model import token_losses
from harness.optim import build_optimizer
from harness.rng import generator

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Batch
    from harness.attribution.evaluation.judged import Found, Judged
    from harness.spec import RunSpec

DRAWS = 3


def measure(judged: Judged) -> Found:
    """Return the gain [Q] of each query by label, and [DRAWS, Q] of random rows."""
    options, queries, pool = judged.options, judged.queries, judged.pool
    judged.refuse_too_many("patched", options.patched)
    scores = {label: judged.scores(label) for label in judged.labels}
    spec = judged.retraining().spec
    rate = options.patch_rate or spec.optimizer.learning_rate
    patch = Patch(judged.opened.view.model, judged.opened.view.optimizer, spec, rate)
    before = query_losses(patch.model, queries.batch, spec)
    gains: dict[str, list[float]] = {label: [] for label in scores}
    control = np.zeros((DRAWS, len(queries)))
    total = (len(scores) + DRAWS) * len(queries)
    with judged.progress.track(total, "tail patch") as advance:
        for q in range(len(queries)):
            query = queries.batch.select(slice(q, q + 1))
            for label, own in scores.items():
                after = patch.loss_after(pool.batch(top(own[:, q], options.patched)), query)
                gains[label].append(float(before[q]) - after)
            for draw in range(DRAWS):
                keyed = generator(options.seed, "tail patch", draw, queries.names[q])
                rows = torch.randperm(len(pool), generator=keyed)[: options.patched]
                control[draw, q] = before[q] - patch.loss_after(pool.batch(rows.tolist()), query)
            advance(len(scores) + DRAWS)
    return {
        "rows": len(pool),
        "patched": options.patched,
        "rate": rate,
        "before": before.tolist(),
        "gains": gains,
        "control": control.tolist(),
    }


@dataclass(eq=False)
class Patch:
    """A copy of a model that takes one step and goes back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    spec: RunSpec
    rate: float

    def __post_init__(self) -> None:
        """Copy: the run's own model and moments stay as they are."""
        state = copy.deepcopy(self.optimizer.state_dict())
        self.model = copy.deepcopy(self.model).requires_grad_(True)
        self.optimizer = build_optimizer(self.model, self.spec.optimizer)
        self._moments: dict[str, Any] = state
        self._weights = copy.deepcopy(self.model.state_dict())

    def loss_after(self, rows: Batch, query: Batch) -> float:
        """Return the query's mean loss after one step on the mean loss of `rows`."""
        self.model.load_state_dict(self._weights)
        self.optimizer.load_state_dict(copy.deepcopy(self._moments))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        enabled = self.spec.precision == "bfloat16"
        with torch.autocast(self.spec.device, torch.bfloat16, enabled=enabled):
            loss = token_losses(self.model, rows).sum() / rows.mask.sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.spec.optimizer.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.optimizer.clip)
        self.optimizer.step()
        return float(query_losses(self.model, query, self.spec)[0])
