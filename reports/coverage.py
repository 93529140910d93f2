"""`python -m reports.coverage`: how often the intervals of a report hold the truth.

Simulated arms with a known difference, some of it by seed, some by document. The t interval takes
the held-out text as it is, so its truth is the difference on that text; asked about any text of the
kind it is too short where documents differ. The two-level bootstrap is asked about any text. Both
are shown, and beside them the bootstrap that was rejected: documents drawn anew in each seed.
The same numbers come out every time; a row takes about ten seconds.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from reports.bootstrap import Losses, two_level_interval
from reports.stats import t_interval

DOCUMENTS = 60
RESAMPLES = 1000
SIMULATIONS = 2000
TRUTH = -0.03
SEED_SD = 0.012
"""Of the differences over seeds, in bits per byte: what the demo's arms have."""


class World(NamedTuple):
    """Where differences between two arms come from, each a standard deviation in bits per byte."""

    name: str
    by_document: float
    """Of a document's difference, the same at every seed."""
    by_both: float
    """Of what is left: a document at one seed."""


WORLDS = (
    World("seeds alone", 0.0, 0.0),
    World("documents vary by seed", 0.0, 0.03),
    World("documents differ", SEED_SD / math.sqrt(6) * math.sqrt(DOCUMENTS), 0.03),
)
"""In the last world documents move a mean over six seeds as much as seeds do."""


def simulate(world: World, num_seeds: int, generator: np.random.Generator) -> tuple[Losses, float]:
    """Return 60 documents under two arms at `num_seeds` seeds, and the true difference on them."""
    num_bytes = generator.integers(300, 1200, DOCUMENTS).astype(float)
    by_seed = generator.normal(0, SEED_SD, (num_seeds, 1))
    by_document = generator.normal(0, world.by_document, DOCUMENTS)
    by_both = generator.normal(0, world.by_both, (num_seeds, DOCUMENTS))
    baseline = np.full((num_seeds, DOCUMENTS), 2.0)
    arm = baseline + TRUTH + by_seed + by_document + by_both
    scale = num_bytes * math.log(2)
    here = float((TRUTH + by_document) @ num_bytes / num_bytes.sum())
    return Losses(arm * scale, baseline * scale, num_bytes), here


def nested_interval(losses: Losses, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the interval of the rejected bootstrap: each seed of a draw has its own documents."""
    chosen, drawn = _nested_draws(*losses.arm.shape, resamples)
    nats = (losses.arm - losses.baseline)[chosen]  # [B, S, D]
    bits = np.einsum("bsd,bsd->bs", drawn, nats) / (drawn @ losses.num_bytes) / math.log(2)
    low, high = np.quantile(bits.mean(-1), [0.025, 0.975])
    return float(low), float(high)


@cache  # the same draws for every simulation, as in the bootstrap itself
def _nested_draws(num_seeds: int, size: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seeds [B, S], and how often each document is drawn in each of them [B, S, D]."""
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, num_seeds, (resamples, num_seeds))
    drawn = generator.multinomial(size, [1 / size] * size, (resamples, num_seeds))
    return chosen, drawn.astype(float)


class Coverage(NamedTuple):
    """Share of simulations whose interval held the true difference."""

    t_same_text: float
    """The t interval, asked about the documents that were evaluated."""
    t_any_text: float
    """The t interval, asked about documents of the kind."""
    two_level: float
    nested: float


def coverage(world: World, num_seeds: int, simulations: int = SIMULATIONS) -> Coverage:
    """Return how often each 95 % interval holds the truth that it is asked about."""
    generator, held = np.random.default_rng([num_seeds, WORLDS.index(world)]), []
    for _ in range(simulations):
        losses, here = simulate(world, num_seeds, generator)
        bits = (losses.arm - losses.baseline).sum(1) / math.log(2)
        _, low, high = t_interval(bits / losses.num_bytes.sum())
        intervals = (
            two_level_interval([losses], lambda bits: bits[..., 0], RESAMPLES),
            nested_interval(losses),
        )
        any_text = [(low, high), *intervals]
        held.append([low <= here <= high, *(one <= TRUTH <= other for one, other in any_text)])
    return Coverage(*np.mean(held, 0).tolist())


def main() -> None:
    """Print the coverage of every interval, by world and number of seeds."""
    print(f"95 % intervals, {SIMULATIONS} simulations of {DOCUMENTS} documents each")
    print(f"{'':32}{'t, same text':>14}{'t, any text':>14}{'two-level':>14}{'nested':>14}")
    for world in WORLDS:
        for num_seeds in (6, 8, 12):
            row = "".join(f"{value:>13.1%} " for value in coverage(world, num_seeds))
            print(f"{world.name:23}{num_seeds:>3} seeds{row}", flush=True)


if __name__ == "__main__":
    main()
