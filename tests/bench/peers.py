"""`make bench`, second part: the exact scorer beside the libraries a user would otherwise take.

It runs in an environment of its own, which `make peers` makes, and in one process: everyone takes
turns, in one order and then in the reverse, and a piece of a training step before and after each
says how fast the machine was. A figure is the geometric mean over rounds with its 95 % t interval:
of time per row over the step's, and of a library's time over ours in the same round. A library
that is not there or fails is a row that says so.

Memory is how far the process grew over what it held before, in a run of its own with malloc as it
comes; times are with freed memory kept, as training does, for everyone.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TQDM_DISABLE", "1")  # read when a library is imported

from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

from harness import allocator
from tests.bench import peer_kronfluence
from tests.bench.peer_scorers import (
    LOOP_ROWS,
    STEP_ROWS,
    Job,
    Scorer,
    bergson,
    dattri_llm,
    job_of,
    one_backward_per_row,
    training_step,
    with_biases,
    without_biases,
)
from tests.bench.timing import interval
from tests.bench.worlds import measured

OURS = {False: "steelyard grad_dot", True: "steelyard grad_dot, with biases"}


class Peer(NamedTuple):
    """One way to the scores."""

    make: Callable[[Job], Scorer]
    biases: bool
    asked: float = 0.0  # how many times our time, at least
    only_rows: int = 0  # it scores the job's first rows, 0: all


PEERS: dict[str, Peer] = {
    OURS[False]: Peer(without_biases, False),
    "bergson, streaming Scorer": Peer(bergson, False, 1.2),
    OURS[True]: Peer(with_biases, True),
    "dattri-llm, frozen, factorized": Peer(dattri_llm, True, 1.0),
    "kronfluence identity, accumulated": Peer(
        partial(peer_kronfluence.identity, accumulate=True), True
    ),
    "kronfluence identity, defaults": Peer(
        partial(peer_kronfluence.identity, accumulate=False), True, 3.0
    ),
    "one backward per row": Peer(one_backward_per_row, True, 4.0, LOOP_ROWS),
}


class Found(NamedTuple):
    """What is known of one way after all rounds."""

    scores: Tensor
    seconds: list[float]  # per round
    per_row: list[float]  # the same, per row and query
    in_steps: list[float]  # per row and query, over the step's time per row
    megabytes: float


def measure(job: Job, rounds: int, console: Console) -> tuple[dict[str, Found], dict[str, str]]:
    """Return what each way took, and the reason of those that failed."""
    ready: dict[str, Scorer] = {}
    megabytes: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, peer in PEERS.items():
        console.print(f"set-up and memory: {name}")
        try:
            ready[name] = peer.make(job)
            megabytes[name] = peak(ready[name])
        except Exception as error:  # whatever a library raises belongs in the table
            failed[name] = reason(error)
            ready.pop(name, None)
    step = training_step(job)
    step()
    found: dict[str, Found] = {}
    for turn in range(rounds):
        before = timed(step)[1] / STEP_ROWS
        for name in list(ready)[:: -1 if turn % 2 else 1]:
            scores, seconds = timed(ready[name])
            after = timed(step)[1] / STEP_ROWS
            count = (PEERS[name].only_rows or len(job.rows.rows)) + len(job.queries.rows)
            ratio = seconds / count / math.sqrt(before * after)
            console.print(f"round {turn + 1}: {name}: {seconds:.2f} s, {ratio:.2f} steps")
            known = found.setdefault(name, Found(scores, [], [], [], megabytes[name]))
            known.seconds.append(seconds)
            known.per_row.append(seconds / count)
            known.in_steps.append(ratio)
            before = after
    return found, failed


def reason(error: Exception) -> str:
    """Return the first line of what a library said."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what it returns, and how long it took."""
    start = time.perf_counter()
    value = run()
    return value, time.perf_counter() - start


def peak(run: Scorer) -> float:
    """Return how many MB the process grew by at most while it ran; nan where Linux does not say."""
    allocator.keep_memory(False)
    gc.collect()
    allocator.give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        before = _resident("VmRSS")
        run()
        return (_resident("VmHWM") - before) / 1024
    except OSError:
        run()
        return math.nan
    finally:
        allocator.keep_memory()


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def agreement(scores: Tensor, ours: Tensor) -> tuple[float, float]:
    """Return the mean Spearman over queries and the relative error, against ours."""
    scores, ours = scores.double(), ours.double()[: len(scores)]
    ranks = [float(stats.spearmanr(*pair)[0]) for pair in zip(scores.T, ours.T, strict=True)]
    return sum(ranks) / len(ranks), float((scores - ours).norm() / ours.norm())


def rows_of(found: dict[str, Found], failed: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the table's rows, in the order of PEERS."""
    rows: list[tuple[str, ...]] = []
    for name, peer in PEERS.items():
        if name in failed:
            rows.append((f"{name}\n  failed: {failed[name]}",))
            continue
        one, ours = found[name], found.get(OURS[peer.biases])
        rank = error = versus = ""
        if ours is not None and one is not ours:
            ratios = [a / b for a, b in zip(one.per_row, ours.per_row, strict=True)]
            versus = figure(ratios)
            spearman, relative = agreement(one.scores, ours.scores)
            rank, error = f"{spearman:.5f}", f"{relative:.1e}"
        rows.append(
            (
                name,
                f"{min(one.seconds):.2f}",
                f"{1000 * min(one.per_row):.1f}",
                figure(one.in_steps),
                versus,
                f">= {peer.asked}" if peer.asked else "",
                f"{one.megabytes:.0f}",
                rank,
                error,
            )
        )
    return rows


def figure(values: list[float]) -> str:
    """Return the geometric mean and its interval as text."""
    mean, low, high = interval(values)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def ekfac_rows(job: Job, rounds: int) -> list[tuple[str, ...]]:
    """Return kronfluence's EKFAC for one query direction: its fit, and one more row."""
    step = training_step(job)
    steps: list[float] = []
    try:
        reference = peer_kronfluence.ekfac(
            job, repeats=rounds, between=lambda: steps.append(timed(step)[1] / STEP_ROWS)
        )
    except Exception as error:  # as above
        return [(f"kronfluence EKFAC\n  failed: {reason(error)}",)]
    fit = reference.fit_seconds / len(job.rows.rows)
    ratios = [row / one for row, one in zip(reference.row_seconds, steps, strict=True)]
    in_steps = f"{fit / (sum(steps) / len(steps)):.2f}"
    each = 1000 * min(reference.row_seconds)
    return [
        ("kronfluence EKFAC, fit", f"{reference.fit_seconds:.2f}", f"{1000 * fit:.1f}", in_steps),
        ("kronfluence EKFAC, one direction, a row more", "", f"{each:.1f}", figure(ratios)),
    ]


def has_bfloat16_units() -> bool:
    """Tell whether the CPU multiplies bfloat16 itself; emulated, it says nothing about anyone."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def table_of(job: Job, model: str, options: argparse.Namespace, console: Console) -> Table:
    """Measure one model and return its table."""
    size = f"{len(job.rows.rows)} rows x {len(job.queries.rows)} queries"
    how = f"{options.threads} thread(s), {options.rounds} rounds, {job.precision}"
    how += f", {job.chunk} rows a pass"
    table = Table(title=f"{model}, {size}, {how}", title_justify="left")
    table.add_column("what", min_width=42, overflow="fold")
    for column in ("s, min", "ms / row", "steps / row", "time / ours", "asked", "peak MB"):
        table.add_column(column)
    table.add_column("Spearman")
    table.add_column("error")
    for row in rows_of(*measure(job, options.rounds, console)):
        table.add_row(*row)
    if job.precision == "bfloat16":
        return table
    if not options.no_ekfac:
        for row in ekfac_rows(job, options.rounds):
            table.add_row(*row)
    if not has_bfloat16_units():
        table.add_row("bfloat16: not run, this CPU has no units for it")
    return table


def main() -> None:
    """Compare on the models that are asked for and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["gpt2"], choices=["gpt2", "llama"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=16, help="rows of a pass, for everyone")
    parser.add_argument("--full", action="store_true", help="1024 rows x 64 queries")
    parser.add_argument("--no-ekfac", action="store_true", help="leave out kronfluence's EKFAC")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.full:
        options.rows, options.queries = 1024, 64
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="kronfluence|dattri_llm")
    console, log = Console(width=165), Console(stderr=True)
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            loop = measured(Path(folder), model, threads=options.threads)
            job = job_of(loop.view, options.rows, options.queries, Path(folder), options.chunk)
            console.print(table_of(job, model, options, log))
            if has_bfloat16_units():
                console.print(table_of(job._replace(precision="bfloat16"), model, options, log))


if __name__ == "__main__":
    main()
