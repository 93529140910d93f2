"""What a projection of row gradients costs, and how well it keeps their cosines."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.influence.projections import CountSketch, Gaussian, Projection
from tests.bench.timing import interval, seconds


def cosines(rows: Tensor) -> Tensor:
    """Return the cosine of each pair of different rows."""
    unit = F.normalize(rows)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1)
    return (unit @ unit.T)[i, j]


def projections(threads: int) -> list[tuple[str, ...]]:
    """Sketch 64 rows as long as the gradient of 3.1 million parameters, and multiply them.

    The rows are drawn: a shared part, and coordinates of very different scales. Seeds take turns.
    The dense reference gets an eighth of the coordinates, since its time is in proportion to them.
    """
    torch.set_num_threads(threads)
    size, num_dims, seeds = 3 * 2**20, 1024, 3
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(64, size, generator=draw) * 3
    rows += torch.randn(size, generator=draw)
    rows *= torch.randn(size, generator=draw).exp()
    eighth = rows[:, : size // 8].contiguous()
    exact = cosines(eighth)

    def error(projection: Projection) -> float:
        return float((cosines(projection.project("", eighth)) - exact).abs().mean())

    # first calls pay for the warm-up
    CountSketch(num_dims).project("", rows)
    Gaussian(num_dims).project("", eighth[:, :4096])
    times, errors = [], []
    for seed in range(seeds):
        sketch, dense = CountSketch(num_dims, seed), Gaussian(num_dims, seed)
        sketching = seconds(partial(sketch.project, "", rows), 10) / 10
        multiplying = 8 * seconds(partial(dense.project, "", eighth), 1)
        times.append(multiplying / sketching)
        errors.append(error(sketch) / error(dense))
    what = "Gaussian projection / CountSketch (64 rows of 3.1 M, 1024 dimensions)"
    mean, low, high = interval(times)
    figure, at_least, at_most = interval(errors)
    return [
        (what + ", time", f"{mean:.0f}", f"{low:.0f} to {high:.0f}", ">= 100"),
        (
            "CountSketch / Gaussian, mean cosine error",
            f"{figure:.3f}",
            f"{at_least:.3f} to {at_most:.3f}",
            "0.9 to 1.1",
        ),
    ]
