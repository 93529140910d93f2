"""Exact influence scores beside a training step: what they cost, and how exact they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from scipy import stats

from baselines.static import Static
from harness.influence.directional import (
    adam_scale,
    checked_step,
    preconditioned,
    score_rows,
)
from harness.influence.gradients import GradDot
from harness.model import token_losses
from tests.bench.timing import interval, ratios
from tests.bench.worlds import loop_of


def fidelity(out: Path, threads: int) -> list[tuple[str, ...]]:
    """Rank rows by the directional score and by one backward per row, along the same direction."""
    loop = loop_of(out, Static(), "nano", 64, 1000, threads)
    correlations = []
    for _ in range(5):
        for _ in range(20):
            loop.step()
        view = loop.view
        probes = view.probes(32)
        gradient = view.gradient(probes.select(probes.domains == 4))
        along = preconditioned(gradient, adam_scale(view))
        rows = view.candidates(16)
        step = checked_step(view, rows.select(slice(0, len(rows.rows), 10)), along)
        names, parameters = zip(*view.model.named_parameters(), strict=True)
        exact = []
        for i in range(len(rows.rows)):
            loss = token_losses(view.model, rows.select(slice(i, i + 1))).mean()
            pairs = zip(names, torch.autograd.grad(loss, parameters), strict=True)
            exact.append(sum(float((along[n] * g).sum()) for n, g in pairs))
        correlations.append(
            float(stats.spearmanr(score_rows(view, rows, along, step.eps), exact)[0])
        )
    spread = f"{min(correlations):.4f} to {max(correlations):.4f}"
    mean = sum(correlations) / len(correlations)
    what = "Spearman of influence scores with one backward per row (80 rows, 5 refreshes)"
    return [(what, f"{mean:.4f}", spread, "min >= 0.99")]


def row_gradients(out: Path, pairs: int, threads: int) -> list[tuple[str, ...]]:
    """Compare scoring 16 rows against 64 queries with a training step's passes on the same rows."""
    loop = loop_of(out, Static(), "small", 128, 1000, threads)
    view = loop.view
    rows, queries = (
        batch.select(slice(0, n)) for batch, n in ((view.candidates(4), 16), (view.probes(16), 64))
    )

    def step() -> None:
        loss = token_losses(view.model, rows).mean()
        torch.autograd.grad(loss, list(view.model.parameters()))

    table = []
    for precision, asked in (("float32", "<= 1.2"), ("bfloat16", "<= 0.75")):
        estimator = GradDot(preconditioner="none", precision=precision)  # type: ignore[arg-type]
        state = estimator.prepare(view, {}, queries)

        def score(estimator: GradDot = estimator, state: dict[str, Any] = state) -> None:
            estimator.score(view, state, rows)

        mean, low, high = interval(list(ratios(step, score, max(3, pairs // 20), 2)))
        what = f"grad_dot, 64 queries / forward and backward in float32, per row ({precision})"
        table.append((what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", asked))
    return table
