"""EKFAC beside kronfluence and a training step: one query, many queries, the fit, and memory.

Jobs take turns and each figure is a ratio of the fastest turns, with the range of the ratios of one
turn: on a machine that others use, what slows a turn down is not what is measured.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from scipy import stats

from harness.api import Batch
from harness.influence import fisher_by_hooks, reference_factors
from harness.influence.directional import row_losses
from harness.influence.ekfac import Ekfac, import_kronfluence
from harness.influence.fisher import countable
from harness.influence.selection import choose
from harness.model import token_losses
from tests.bench.timing import Row
from tests.bench.worlds import measured

Architecture = Literal["gpt2", "llama"]


def turns(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return seconds of each job, turn by turn, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            found[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in found.items()}


def ratio(slow: list[float], fast: list[float], asked: str, what: str, scale: float = 1.0) -> Row:
    """Return a row: the fastest turns' ratio, and the range over turns."""
    each = [scale * s / f for s, f in zip(slow, fast, strict=True)]
    figure = scale * min(slow) / min(fast)
    return (what, f"{figure:.2f}", f"{min(each):.2f} to {max(each):.2f}", asked)


def one_query(
    out: Path, repeats: int, threads: int, architecture: Architecture = "gpt2", num_rows: int = 96
) -> list[Row]:
    """Score rows for one mean query: one forward each, beside kronfluence's aggregated queries."""
    view = measured(out, architecture, threads=threads).view
    rows, query = spread(view.candidates(num_rows), num_rows), spread(view.probes(4), 4)
    ours = Ekfac(queries="mean", fitter="hooks", route="directional")
    theirs = replace(ours, route="kronfluence")
    fitted = ours.fit(view, spread(view.candidates(96), 96))
    prepared, handed = (e.prepare(view, fitted, query) for e in (ours, theirs))
    base = row_losses(view, rows, {}, 0.0)
    jobs: dict[str, Callable[[], Any]] = {
        "step": lambda: step(view, rows),
        "base": lambda: ours.score(view, prepared, rows, base=base),
        "whole": lambda: ours.score(view, prepared, rows),
        "kronfluence": lambda: theirs.score(view, handed, rows),
    }
    times = turns(jobs, repeats)
    rank = stats.spearmanr(
        ours.score(view, prepared, rows).total, theirs.score(view, handed, rows).total
    )[0]
    relative = float(prepared["eps"][0, 1])
    name = f"{architecture}, ekfac, one query: kronfluence with aggregated queries / ours"
    return [
        ratio(times["kronfluence"], times["base"], ">= 2.5", f"{name}, base losses at hand"),
        ratio(times["kronfluence"], times["whole"], ">= 1.4", f"{name}, without them"),
        ratio(times["base"], times["step"], "", f"{architecture}, ekfac, one query / step per row"),
        (f"Spearman with kronfluence ({num_rows} rows)", f"{rank:.5f}", f"step {relative:g}",
         ">= 0.999"),
    ]  # fmt: skip


def many_queries(
    out: Path, repeats: int, threads: int, num_rows: int = 64, num_queries: int = 32
) -> list[Row]:
    """Score rows for many queries: hooks, beside kronfluence with and without accumulation."""
    view = measured(out, "gpt2", threads=threads).view
    rows, query = spread(view.candidates(num_rows), num_rows), spread(view.probes(32), num_queries)
    ours = Ekfac(fitter="hooks", route="hooks")
    theirs = replace(ours, route="kronfluence")
    fitted = ours.fit(view, spread(view.candidates(32), 32))

    def scored(estimator: Ekfac) -> Any:
        return estimator.score(view, estimator.prepare(view, fitted, query), rows).total

    def at_its_defaults() -> None:  # one traversal of the rows for every batch of queries
        for i in range(0, num_queries, 16):
            part = query.select(slice(i, i + 16))
            theirs.score(view, theirs.prepare(view, fitted, part), rows)

    jobs: dict[str, Callable[[], Any]] = {
        "step": lambda: step(view, rows),
        "ours": lambda: scored(ours),
        "accumulated": lambda: scored(theirs),
        "default": at_its_defaults,
    }
    times = turns(jobs, repeats)
    name = f"gpt2, ekfac, {num_queries} queries x {num_rows} rows"
    per_row = num_rows / (num_rows + num_queries)
    return [
        ratio(times["ours"], times["step"], "", f"{name}: ours / step per row or query", per_row),
        ratio(times["accumulated"], times["ours"], "", f"{name}: kronfluence accumulated / ours"),
        ratio(times["default"], times["ours"], "", f"{name}: kronfluence by default / ours"),
    ]


def fit(out: Path, repeats: int, threads: int, num_rows: int = 32) -> list[Row]:
    """Fit covariances and lambdas, without the eigendecompositions between, in steps per row."""
    view = measured(out, "gpt2", threads=threads).view
    pool = countable(view, spread(view.candidates(num_rows), num_rows), "sampled")
    uses, options = choose(view.model), Ekfac(chunk_rows=16)
    vectors = Ekfac(fitter="hooks").fit(view, pool.rows)
    kronfluence = import_kronfluence()
    found: dict[str, list[float]] = {"step": [], "hooks": []}
    lambdas: dict[str, torch.Tensor] = {}

    def by_kronfluence(name: str, batch: int, **settings: Any) -> None:
        arguments = kronfluence.FactorArguments(
            covariance_max_examples=None, lambda_max_examples=None, **settings
        )
        call = {"factors_name": reference_factors.NAME, "factor_args": arguments}
        data = {
            "dataset": reference_factors._Rows(pool.rows, None),
            "per_device_batch_size": batch,
        }
        with reference_factors._analyzer(kronfluence, view, uses, options, pool) as analyzer:
            start = time.perf_counter()
            analyzer.fit_covariance_matrices(**call, **data)
            middle = time.perf_counter()
            reference_factors._write_eigen(kronfluence, analyzer, vectors)
            again = time.perf_counter()
            analyzer.fit_lambda_matrices(**call, **data)
            spent = time.perf_counter() - again + middle - start
            fitted = analyzer.load_lambda_matrices(reference_factors.NAME)["lambda_matrix"]
        lambdas[name] = torch.cat([fitted[module].flatten() for module in sorted(fitted)])
        found.setdefault(name, []).append(spent)

    def by_hooks() -> None:
        fisher_by_hooks.covariances(view, uses, pool, 16, torch.float32, "float32")
        fisher_by_hooks.second_moments(view, uses, pool, 16, vectors, "float32")

    for turn in range(repeats + 1):
        for name, job in (("step", lambda: step(view, pool.rows)), ("hooks", by_hooks)):
            start = time.perf_counter()
            job()
            found[name].append(time.perf_counter() - start)
        by_kronfluence("kronfluence, 16 rows a batch", 16)
        by_kronfluence("kronfluence, 8 rows a batch", 8)
        by_kronfluence(
            "kronfluence, rows rotated in turn", 16, use_iterative_lambda_aggregation=True
        )
        by_kronfluence(
            "kronfluence, modules in two parts",
            16,
            covariance_module_partitions=2,
            lambda_module_partitions=2,
        )
        by_kronfluence("kronfluence, network in bfloat16", 16, amp_dtype=torch.bfloat16)
        if turn == 0:
            found = {name: [] for name in found}
    name = "gpt2, ekfac fit without eigendecompositions / step per row"
    plain = lambdas["kronfluence, 16 rows a batch"]
    apart = {who: float((one - plain).norm() / plain.norm()) for who, one in lambdas.items()}
    told = {who: f"{who} (lambda {apart[who]:.0e} apart)" for who in apart}
    return [
        ratio(times, found["step"], "kronfluence: 5", f"{name}: {told.get(who, who)}")
        for who, times in found.items()
        if who != "step"
    ]


def memory(out: Path, threads: int, few: int = 32, many: int = 128) -> list[Row]:
    """Return how far the peak rises from scoring and fitting few rows to many: flat in N."""
    view = measured(out, "gpt2", threads=threads).view
    table = []
    for fitter, route in (
        ("hooks", "directional"),
        ("hooks", "hooks"),
        ("kronfluence", "kronfluence"),
    ):
        queries: Any = "mean" if route == "directional" else "each"
        estimator = Ekfac(queries=queries, fitter=fitter, route=route)  # type: ignore[arg-type]
        peaks = []
        for count in (few, many):
            rows = spread(view.candidates(count), count)
            fitted = estimator.fit(view, rows)
            estimator.score(view, estimator.prepare(view, fitted, spread(view.probes(4), 4)), rows)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        what = (
            f"gpt2, ekfac by {fitter}, scored by {route}: peak MB more for {many} rows than {few}"
        )
        table.append((what, f"{peaks[1] - peaks[0]:.0f}", f"of {peaks[1]:.0f} MB", "flat in N"))
    return table


def spread(rows: Batch, count: int) -> Batch:
    """Return `count` rows, evenly from all domains."""
    return rows.select(torch.linspace(0, len(rows.rows) - 1, count).long())


def step(view: Any, rows: Batch) -> None:
    """Run a training step's forward and backward passes on the rows, 16 at a time."""
    for i in range(0, len(rows.rows), 16):
        loss = token_losses(view.model, rows.select(slice(i, i + 16))).mean()
        torch.autograd.grad(loss, list(view.model.parameters()))
