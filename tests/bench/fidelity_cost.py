"""Fidelity against cost of landmark estimators: `python -m tests.bench.fidelity_cost --out FOLDER`.

On two architectures (four layers, width 256, a few quick steps on real text) a pool of rows is
scored for the run's target in every way at once: exactly, by the directional derivative, and from
16 to 512 landmarks with each embedding. Embeddings and landmark gradients are computed once per
row, so that many draws of landmarks cost a regression each; what one draw would have cost is put
together from the parts, seconds per row of each, over those of a training step on the same rows in
the same process, and from the billed operations.

The target's own gradient, which every way needs once, is left out of all costs. Rank correlations
are over rows that are no landmark, mean over draws. FOLDER gets fidelity_cost.csv
and fidelity_cost.svg.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.domains import domain_mean
from harness.influence import kernel_ridge
from harness.influence.directional import adam_scale
from harness.influence.directional_estimator import Directional
from harness.influence.fidelity import spearman
from harness.influence.gradients import GradCos, GradDot
from harness.influence.landmark import HiddenLandmark, JvpLandmark
from harness.influence.projected import projected_means, projected_rows
from harness.influence.queries import query_weights
from harness.model import token_losses
from harness.rng import generator
from tests.bench.worlds import measured

LANDMARKS = (16, 32, 64, 128, 256, 512)
MODULES = ("linear",)
TICKS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Point:
    """One estimator on one architecture."""

    architecture: str
    arm: str
    landmarks: int  # 0: none are needed
    steps: float  # seconds per scored row over those of a training step
    flops: float  # billed operations per scored row over those of a training step
    spearman: float  # over rows
    lowest: float  # of all draws
    highest: float
    domains: float  # over domain means
    best: float  # share of draws that put the exact method's first domain first


@dataclass(frozen=True)
class Part:
    """Something computed once for all rows, and what a row of it cost."""

    value: Tensor
    steps: float
    flops: float


class World:
    """A run, the rows, and the yardstick."""

    def __init__(self, out: Path, architecture: Any, options: argparse.Namespace) -> None:
        """Train a few steps and draw the pool."""
        loop = measured(out, architecture, options.steps, options.threads)
        self.architecture, self.view, self.options = architecture, loop.view, options
        self.rows = self.view.candidates(options.rows // len(self.view.domains))
        probes = self.view.probes(options.probe_rows)
        targeted = self.view.targets[probes.domains.cpu()] > 0
        self.query = probes.select(targeted.nonzero()[:, 0])
        self.step_flops = sum(self.view.row_flops)

    def step_seconds(self) -> float:
        """Return what one row of a training step's two passes takes now."""
        some = self.rows.select(slice(0, 16))
        parameters = list(self.view.model.parameters())
        times = []
        for _ in range(3):
            start = time.perf_counter()
            torch.autograd.grad(token_losses(self.view.model, some).mean(), parameters)
            times.append(time.perf_counter() - start)
        return min(times) / len(some.rows)

    def part(self, compute: Callable[[], Tensor]) -> Part:
        """Compute once, between two looks at the yardstick."""
        spent, before = self.view.spent, self.step_seconds()
        start = time.perf_counter()
        value = compute()
        seconds = (time.perf_counter() - start) / len(self.rows.rows)
        flops = (self.view.spent - spent) / len(self.rows.rows)
        return Part(value, seconds / min(before, self.step_seconds()), flops / self.step_flops)

    def domain_scores(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Return the mean score of each domain's kept rows [K]."""
        num_domains = len(self.view.domains)
        nothing = torch.zeros(num_domains, dtype=torch.float64)
        return domain_mean(scores[keep], self.rows.domains.cpu()[keep], num_domains, nothing)


def points_of(world: World) -> Iterator[Point]:
    """Yield every estimator on one architecture."""
    # the query's rows are of one domain, the target: their mean is the target's loss
    shared: dict[str, Any] = {"queries": "mean", "modules": MODULES}
    exact, products, directional = (
        scored(world, kind(**shared)) for kind in (GradCos, GradDot, Directional)
    )
    keep = torch.ones(len(world.rows.rows), dtype=torch.bool)
    yield point(world, "exact cosine", exact, exact, keep)
    yield point(world, "directional (exact dot)", directional, products, keep)
    yield from landmark_points(world, exact)


def scored(world: World, estimator: Any) -> Part:
    """Return the scores [N] of all rows and what they cost, queries prepared."""
    view, rows = world.view, world.rows
    prepared = estimator.prepare(view, estimator.fit(view, rows), world.query)
    return world.part(lambda: estimator.score(view, prepared, rows).total[:, 0])


def point(world: World, arm: str, found: Part, exact: Part, keep: Tensor) -> Point:
    """Return the point of an estimator that needs no landmarks."""
    rank = spearman(found.value[keep], exact.value[keep])
    one, other = (world.domain_scores(part.value, keep) for part in (found, exact))
    best = float(one.argmax() == other.argmax())
    ranks = spearman(one, other)
    return Point(
        world.architecture, arm, 0, found.steps, found.flops, rank, rank, rank, ranks, best
    )


def embeddings(world: World) -> Iterator[tuple[str, Part]]:
    """Yield each embedding of all rows."""
    view, rows = world.view, world.rows
    for layers, _, pooling in (arm.partition(":") for arm in world.options.jvp):
        jvp = JvpLandmark(layers=int(layers), pooling=pooling)
        over = {"last": "last token", "mean": "mean over tokens"}[pooling]
        name = f"JVP, {layers} layer{'s' * (layers != '1')}, {over}"
        yield name, world.part(partial(jvp._embeddings, view, rows))
    for layers in world.options.hidden:
        hidden = HiddenLandmark(layers=layers)
        name = f"hidden states, {layers} layer{'s' * (layers > 1)}"
        yield name, world.part(partial(hidden._embeddings, view, rows))


def landmark_points(world: World, exact: Part) -> Iterator[Point]:
    """Yield every embedding with every number of landmarks."""
    view, rows = world.view, world.rows
    plan = JvpLandmark(queries="mean", modules=MODULES)
    recipe = plan._recipe(view, adam_scale(view))
    gradients = world.part(lambda: projected_rows(view, rows, recipe).normalised())
    weights = query_weights(view, world.query, "mean")
    known = projected_means(view, world.query, weights, plan._recipe(view, {})).normalised()
    scores = (gradients.value @ known.T).double()[:, 0]  # [N], of rows as landmarks
    alone = Part(scores, gradients.steps, gradients.flops)
    every = torch.ones(len(rows.rows), dtype=torch.bool)
    yield point(world, f"exact cosine, projected to {plan.dims}", alone, exact, every)
    for name, embedding in embeddings(world):
        for number in world.options.landmarks:
            yield regressed(world, name, number, embedding, gradients, scores, exact)


def regressed(
    world: World,
    name: str,
    number: int,
    embedding: Part,
    gradients: Part,
    scores: Tensor,
    exact: Part,
) -> Point:
    """Return the mean over draws of landmarks, and the cost of one draw."""
    total, ranks, domains, best = len(scores), [], [], []
    for draw in range(world.options.draws):
        order = torch.randperm(total, generator=generator(0, "landmarks", number, draw))
        chosen, keep = order[:number], torch.ones(total, dtype=torch.bool)
        keep[chosen] = False
        ridge = kernel_ridge.fit(embedding.value[chosen], 1e-2)
        found = ridge.predict(embedding.value, ridge.coefficients(scores[chosen]))
        ranks.append(spearman(found[keep], exact.value[keep]))
        one, other = (world.domain_scores(s, keep) for s in (found, exact.value))
        domains.append(spearman(one, other))
        best.append(float(one.argmax() == other.argmax()))
    # landmarks' gradients come on top of an embedding of every row
    share = number / total
    steps, flops = (
        getattr(embedding, unit) + share * getattr(gradients, unit) for unit in ("steps", "flops")
    )
    middle = sum(ranks) / len(ranks)
    figures = (middle, min(ranks), max(ranks), mean(domains), mean(best))
    return Point(world.architecture, name, number, steps, flops, *figures)


def mean(values: list[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def draw(points: list[Point], path: Path, unit: str = "steps") -> None:
    """Draw rank correlation against cost, one panel per architecture."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(p.architecture for p in points))
    figure, axes = plt.subplots(
        1, len(names), figsize=(6.2 * len(names), 5.2), sharey=True, squeeze=False
    )
    arms = list(dict.fromkeys(p.arm for p in points))
    for axis, name in zip(axes[0], names, strict=True):
        for i, arm in enumerate(arms):
            mine = [p for p in points if (p.architecture, p.arm) == (name, arm)]
            x, y = [getattr(p, unit) for p in mine], [p.spearman for p in mine]
            spread = [[p.spearman - p.lowest for p in mine], [p.highest - p.spearman for p in mine]]
            marker = "osD^vP*X"[i % 8]
            size = {"markersize": 10, "linestyle": "none"} if not mine[0].landmarks else {}
            axis.errorbar(x, y, yerr=spread, marker=marker, capsize=2, label=arm, **size)
        for p in points:
            if p.architecture == name and p.arm == arms[-1]:
                axis.annotate(str(p.landmarks), (getattr(p, unit), p.spearman), (4, -11),
                              textcoords="offset points", fontsize=8)  # fmt: skip
        axis.set(title=name, xlabel="cost of a scored row, in training steps per row")
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        ticks = [t for t in TICKS if low <= t <= high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.xaxis.set_minor_formatter(lambda value, _: "")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("Spearman with exact scores\n(rows that are no landmark)")
    axes[0][0].set_ylim(top=1.06)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8)
    figure.suptitle("Landmarks from left to right; numbers at the last arm; bars: all draws")
    figure.tight_layout(rect=(0, 0.06 * math.ceil(len(arms) / 4), 1, 1))
    figure.savefig(path)
    plt.close(figure)


def write(points: list[Point], path: Path) -> None:
    """Write one line per point."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(p) for p in points)


def told(points: list[Point]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="fidelity and cost", title_justify="left")
    for column in ("model", "arm", "landmarks", "steps", "FLOPs", "Spearman", "domains", "best"):
        table.add_column(column)
    for p in points:
        cost = (f"{p.steps:.2f}", f"{p.flops:.2f}")
        rank = f"{p.spearman:.3f} ({p.lowest:.2f} to {p.highest:.2f})"
        number = str(p.landmarks or "")
        shares = (f"{p.domains:.2f}", f"{p.best:.2f}")
        table.add_row(p.architecture, p.arm, number, *cost, rank, *shares)
    Console(width=120).print(table)


def main() -> None:
    """Compute, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the csv and the svg")
    parser.add_argument("--rows", type=int, default=768, help="rows scored, landmarks among them")
    parser.add_argument("--probe-rows", type=int, default=32, help="probe rows of each domain")
    parser.add_argument("--steps", type=int, default=60, help="training steps before")
    parser.add_argument("--draws", type=int, default=5, help="draws of landmarks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architectures", nargs="+", default=["gpt2", "llama"])
    parser.add_argument("--landmarks", nargs="+", type=int, default=list(LANDMARKS))
    jvp = ["1:last", "2:last", "4:last", "2:mean"]
    parser.add_argument("--jvp", nargs="+", default=jvp, help="layers:pooling of the JVP")
    parser.add_argument("--hidden", nargs="+", type=int, default=[2, 4], help="of hidden states")
    options = parser.parse_args()
    if max(options.landmarks) >= options.rows:
        parser.error("rows must be more than landmarks")
    options.out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        for architecture in options.architectures:
            for found in points_of(World(Path(folder), architecture, options)):
                points.append(found)
                # each as it comes: the whole takes long, and a session can end
                write(points, options.out / "fidelity_cost.csv")
                print(f"{found.architecture}: {found.arm} {found.landmarks}", flush=True)
    draw(points, options.out / "fidelity_cost.svg")
    told(points)


if __name__ == "__main__":
    main()
