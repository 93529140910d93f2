"""`make bench`: what the harness costs, as ratios inside one process.

Machines are shared and noisy, so nothing absolute is claimed. Two things that are compared take
turns in short blocks; each pair of blocks gives one ratio, and the figure is the geometric mean
with the lower end of its 95 % t interval. Set-up and warm-up are outside the blocks.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from baselines.influence import Influence
from baselines.static import Static
from harness import allocator
from harness.assemble import assemble
from harness.corpus import corpus_id, open_corpus
from harness.influence.directional import (
    adam_scale,
    checked_step,
    preconditioned,
    score_rows,
)
from harness.influence.gradients import GradDot
from harness.influence.projections import CountSketch, Gaussian, Projection
from harness.loop import Loop
from harness.model import build_model, token_losses
from harness.optim import build_optimizer
from harness.resolve import engine
from harness.spec import (
    Batching,
    Checkpoint,
    Corpus,
    Model,
    Optimizer,
    RunSpec,
    SyntheticDomain,
    Tokenizer,
)

DOMAINS = {f"d{i}": SyntheticDomain(seed=i, num_documents=400) for i in range(5)}
CORPUS = Corpus(domains=DOMAINS, tokenizer=Tokenizer(vocab_size=2048))


class Silent:
    """A watch that looks away."""

    def found(self, folder: Path) -> None:
        """Ignore it."""

    def begin(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def end(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Ignore it."""

    def record(self, record: dict[str, Any]) -> None:
        """Ignore it."""

    def stop(self) -> bool:
        """Never stop."""
        return False


def loop_of(out: Path, mixer: Any, size: str, tokens: int, steps: int, threads: int) -> Loop:
    """Return a loop that is ready to step, without evaluation or checkpoints in time."""
    spec = RunSpec(
        corpus=CORPUS,
        corpus_id=corpus_id(CORPUS),
        model=Model(size=size),  # type: ignore[arg-type]
        batch=Batching(rows=16, tokens=tokens),
        num_steps=steps,
        optimizer=Optimizer(),
        evaluation=None,
        targets={"d4": 1.0},
        mixer=mixer,
        seed=0,
        data_seed=0,
        threads=threads,
        engine=engine(),
    )
    store = open_corpus(CORPUS, out / "corpora")
    folder = Path(tempfile.mkdtemp(dir=out))
    loop = assemble(spec, store, folder, no_model, Silent(), Checkpoint(minutes=None))
    loop.start()
    return loop


def no_model(run_id: str) -> Any:
    """Refuse: no method here asks for another run."""
    raise AssertionError(run_id)


def bare_loop(loop: Loop) -> Callable[[], None]:
    """Return one step of the leanest PyTorch loop with the same model, rows, dtype and kernels."""
    spec = loop.spec
    vocabulary = loop.view.model.get_input_embeddings().weight.shape[0]
    model = build_model(spec.model, vocabulary, spec.batch.tokens, spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)
    batch = loop.view.candidates(16).select(slice(0, spec.batch.rows))

    def step() -> None:
        logits = model(input_ids=batch.inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(step: Callable[[], None], count: int) -> float:
    """Return how long `count` steps take."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


def ratios(
    one: Callable[[], None], other: Callable[[], None], pairs: int, block: int
) -> Iterator[float]:
    """Yield time of `other` over time of `one`, block by block in turn."""
    seconds(one, 5)
    seconds(other, 5)
    for i in range(pairs):
        first, second = (one, other) if i % 2 else (other, one)
        times = {first: seconds(first, block), second: seconds(second, block)}
        yield times[other] / times[one]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean and its 95 % t interval."""
    logs = torch.tensor(values, dtype=torch.float64).log()
    half = stats.t.ppf(0.975, len(values) - 1) * float(logs.std()) / math.sqrt(len(values))
    middle = float(logs.mean())
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def bench_throughput(out: Path, pairs: int, block: int, threads: int) -> list[tuple[str, ...]]:
    """Compare a static arm's training step with the bare loop's."""
    rows = []
    # a mini step takes several nano steps, and its ratio varies less
    for size, tokens, count in (("nano", 64, pairs), ("mini", 128, pairs // 3)):
        loop = loop_of(out, Static(), size, tokens, 10**6, threads)
        mean, low, high = interval(list(ratios(loop.step, bare_loop(loop), count, block)))
        what = f"static arm / bare loop, tokens per second ({size}, 16 x {tokens})"
        rows.append((what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", "low >= 0.97"))
    return rows


def bench_memory(out: Path, pairs: int, threads: int) -> list[tuple[str, ...]]:
    """Compare the bare loop where freed memory is kept with the same loop where it is not."""
    step = bare_loop(loop_of(out, Static(), "nano", 64, 10**6, threads))

    def switched(keep: bool) -> Callable[[], None]:
        def run() -> None:
            allocator.keep_memory(keep)
            step()

        return run

    mean, low, high = interval(list(ratios(switched(True), switched(False), pairs // 3, 5)))
    allocator.keep_memory()
    what = "bare loop with freed memory kept / given back (nano, 16 x 64)"
    return [(what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", "")]


def bench_overhead(out: Path, steps: int, threads: int) -> list[tuple[str, ...]]:
    """Run the influence arm at its defaults, and read its bill."""
    loop = loop_of(out, Influence(), "nano", 64, steps, threads)
    loop.run()
    train, mixer = loop.meter.accounts["train"], loop.meter.accounts["mixer"]
    by_time, by_flops = mixer.seconds / train.seconds, mixer.flops / train.flops
    what = f"influence at its defaults, overhead / training over {steps} steps"
    return [
        (what + ", seconds", f"{by_time:.3f}", "", "<= 0.10"),
        (what + ", FLOPs", f"{by_flops:.3f}", "", ""),
    ]


def bench_fidelity(out: Path, threads: int) -> list[tuple[str, ...]]:
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


def cosines(rows: Tensor) -> Tensor:
    """Return the cosine of each pair of different rows."""
    unit = F.normalize(rows)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1)
    return (unit @ unit.T)[i, j]


def bench_projections(threads: int) -> list[tuple[str, ...]]:
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
        sketching = seconds(partial(sketch.project, "", rows), 1)
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


def bench_row_gradients(out: Path, pairs: int, threads: int) -> list[tuple[str, ...]]:
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


def bench_startup() -> list[tuple[str, ...]]:
    """Time the command that a user types first."""
    command = [sys.executable, "-m", "harness.cli", "--help"]
    times = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    spread = f"{min(times):.2f} to {max(times[1:]):.2f} s"
    return [
        ("steelyard --help (first call left out)", f"{min(times[1:]):.2f} s", spread, "< 0.6 s")
    ]


def main() -> None:
    """Run all benchmarks and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=240, help="pairs of blocks per comparison")
    parser.add_argument("--block", type=int, default=2, help="steps per block")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the overhead run")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    table = Table(title=f"steelyard bench, {options.threads} thread(s)", title_justify="left")
    for column in ("what", "figure", "95 % interval, or range", "asked"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for row in [
            *bench_startup(),
            *bench_throughput(out, options.pairs, options.block, options.threads),
            *bench_memory(out, options.pairs, options.threads),
            *bench_fidelity(out, options.threads),
            *bench_projections(options.threads),
            *bench_row_gradients(out, options.pairs, options.threads),
            *bench_overhead(out, options.steps, options.threads),
        ]:
            table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
