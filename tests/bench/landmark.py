"""What landmark embeddings cost beside a training step, and that memory stays flat."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Literal

import torch

from harness.cost import _take_peak
from harness.influence.landmark import HiddenLandmark, JvpLandmark
from harness.model import token_losses
from tests.bench.timing import Row, interval, ratios
from tests.bench.worlds import measured

EMBEDDINGS = {
    "JVP of 1 layer, 2 tangents": JvpLandmark(layers=1),
    "JVP of 2 layers, 2 tangents": JvpLandmark(layers=2),
    "JVP of all layers, 2 tangents": JvpLandmark(layers=0),
    "hidden states of 2 layers": HiddenLandmark(layers=2),
    "hidden states of all layers": HiddenLandmark(layers=0),
}


def embeddings(
    out: Path, pairs: int, threads: int, architecture: Literal["gpt2", "llama"] = "gpt2"
) -> list[Row]:
    """Compare an embedding of 16 rows with a training step's two passes on the same rows."""
    view = measured(out, architecture, threads=threads).view
    rows = view.candidates(6).select(slice(0, 16))

    def step() -> None:
        loss = token_losses(view.model, rows).mean()
        torch.autograd.grad(loss, list(view.model.parameters()))

    table: list[Row] = []
    for name, estimator in EMBEDDINGS.items():

        def embed(estimator: Any = estimator) -> None:
            estimator._embeddings(view, rows)

        mean, low, high = interval(list(ratios(step, embed, max(3, pairs // 40), 2)))
        what = f"{name} / forward and backward, per row ({architecture})"
        table.append((what, f"{mean:.2f}", f"{low:.2f} to {high:.2f}", ""))
    return table


def memory(out: Path, threads: int, many: int = 512) -> list[Row]:
    """Score few and many rows from 64 landmarks; the process and its model are in the peak."""
    view = measured(out, "gpt2", threads=threads).view
    pool, query = view.candidates(32), view.probes(4)
    table: list[Row] = []
    for estimator in (JvpLandmark(queries="mean"), HiddenLandmark(queries="mean")):
        prepared = estimator.prepare(view, estimator.fit(view, pool), query)
        peaks = []
        for number in (16, many):
            rows = pool.select(torch.arange(number) % len(pool.rows))
            gc.collect()
            _take_peak("cpu")
            estimator.score(view, prepared, rows)
            peaks.append(_take_peak("cpu") / 2**20)
        what = f"{estimator.kind}: peak of the process at {many} rows over that at 16"
        figures = f"{peaks[1]:.0f} and {peaks[0]:.0f} MiB"
        table.append((what, f"{peaks[1] / peaks[0]:.2f}", figures, "flat"))
    return table
