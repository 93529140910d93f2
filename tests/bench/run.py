"""`make bench`: what steelyard costs, as ratios inside one process.

Machines are shared and noisy, so nothing absolute is claimed; tests/bench/timing.py says how two
things are compared. Set-up and warm-up are outside what is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.choices import num_cores
from tests.bench import (
    attribution,
    ekfac,
    exact,
    influcoder,
    landmark,
    loop,
    projections,
    throughput,
)
from tests.bench.timing import Row


def parts(options: argparse.Namespace, out: Path) -> dict[str, Callable[[], Iterable[Row]]]:
    """Return every part of the benchmark by name, in the order in which they run."""
    threads, pairs = options.threads, options.pairs
    # A run trains on one thread, so its loop is measured on one; scores have the machine.
    scores, repeats = options.score_threads, options.repeats
    return {
        "startup": loop.startup,
        "throughput": lambda: loop.throughput(out, pairs, options.block, threads),
        "memory": lambda: loop.memory(out, pairs, threads),
        "trainer": lambda: throughput.trainer(12, 10, scores),
        "bfloat16": lambda: throughput.bfloat16(12, scores),
        "attention": lambda: throughput.attention(12, scores),
        "grid": lambda: throughput.grid(9, 30, num_cores()),
        "tokenizing": lambda: throughput.tokenizing(repeats),
        "mapped": lambda: throughput.mapped(200, 40),
        "corpus_memory": throughput.corpus_memory,
        "first_step": lambda: throughput.first_step(out, repeats),
        "fidelity": lambda: exact.fidelity(out, threads),
        "projections": lambda: projections.projections(scores),
        "overhead": lambda: loop.overhead(out, options.steps, threads, repeats),
        "row_gradients": lambda: exact.row_gradients(out, repeats, scores),
        "row_gradients_llama": lambda: exact.row_gradients(out, repeats, scores, "llama"),
        "row_gradients_1024": lambda: exact.row_gradients(out, repeats, scores, count=1024),
        "directional": lambda: exact.directional(out, repeats, scores),
        "directional_llama": lambda: exact.directional(out, repeats, scores, "llama"),
        "exact_memory": lambda: exact.memory(out, scores),
        "ekfac": lambda: ekfac.one_query(out, repeats, scores, "gpt2"),
        "ekfac_llama": lambda: ekfac.one_query(out, repeats, scores, "llama"),
        "ekfac_queries": lambda: ekfac.many_queries(out, repeats, scores),
        "ekfac_fit": lambda: ekfac.fit(out, repeats, scores),
        "attribution": lambda: attribution.fit_and_score(out, repeats, scores),
        "ekfac_memory": lambda: ekfac.memory(out, scores),
        "landmark": lambda: landmark.embeddings(out, repeats, scores),
        "landmark_memory": lambda: landmark.memory(out, scores),
        "influcoder": lambda: influcoder.rows(out, repeats, scores),
    }


def main() -> None:
    """Run the benchmarks that are asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=240, help="pairs of blocks per comparison")
    parser.add_argument("--block", type=int, default=2, help="steps per block")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the overhead run")
    parser.add_argument("--threads", type=int, default=1, help="of the loop's figures")
    parser.add_argument("--score-threads", type=int, default=2, help="of the scores' figures")
    parser.add_argument("--repeats", type=int, default=5, help="of each comparison of scores")
    parser.add_argument("--only", nargs="+", default=[], help="names of parts; all by default")
    options = parser.parse_args()
    table = Table(title=f"steelyard bench, {options.threads} thread(s)", title_justify="left")
    for column in ("what", "figure", "95 % interval, or range", "asked"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        every = parts(options, Path(folder))
        for name in options.only or every:
            for row in every[name]():
                table.add_row(*row)
                # each as it comes: the whole takes long, and a session can end
                print(f"{name}: {' | '.join(row)}", file=sys.stderr, flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
