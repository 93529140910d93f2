"""kronfluence on the same job: plain gradients, and EKFAC for one query direction.

It wraps nn.Linear alone, so GPT-2's Conv1D layers are made into that on a copy. It counts biases.
The reference for EKFAC is the mean of the queries, aggregated before the rows are scored: the
cheapest it can do, and what one forward pass per row competes with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.influence.conv1d import linear_copy
from tests.bench.peer_scorers import Job, Scorer, samples, summed_loss


def identity(job: Job, accumulate: bool) -> Scorer:
    """Score by plain gradients, at its defaults or with all queries held in one traversal."""
    from kronfluence.arguments import FactorArguments, ScoreArguments

    analyzer = analyzer_of(job, "sum")
    factors = FactorArguments(strategy="identity")
    rows, queries, size = samples(job.rows), samples(job.queries), job.chunk
    analyzer.fit_all_factors("none", rows, size, factor_args=factors, overwrite_output_dir=True)
    steps = -(-len(queries) // size) if accumulate else 1
    arguments = ScoreArguments(
        query_gradient_accumulation_steps=steps,
        amp_dtype=torch.bfloat16 if job.precision == "bfloat16" else None,
    )
    return lambda: pairwise(analyzer, "none", rows, queries, arguments, size).T


def pairwise(
    analyzer: Any, factors: str, rows: Any, queries: Any, arguments: Any, chunk: int
) -> Tensor:
    """Return kronfluence's pairwise scores [Q, N], computed anew; it hands them over as a file."""
    analyzer.compute_pairwise_scores(
        scores_name="scores",
        factors_name=factors,
        query_dataset=queries,
        train_dataset=rows,
        per_device_query_batch_size=chunk,
        per_device_train_batch_size=chunk,
        score_args=arguments,
        overwrite_output_dir=True,
    )
    scores: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
    return scores


class Reference(NamedTuple):
    """kronfluence's EKFAC influence of rows on the mean of the queries."""

    scores: Tensor  # [N]; a row's loss is a sum over targets, the query's a mean over targets, rows
    fit_seconds: float  # for the rows that were scored
    row_seconds: list[float]  # of one more row, once the queries are done; one per repeat
    factors: dict[str, dict[str, Tensor]]  # by kind and module, to be used by other code


def ekfac(
    job: Job,
    damping: float | None = 1e-8,
    repeats: int = 3,
    between: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> Reference:
    """Fit on the job's rows, score them for one direction, and time both.

    The time of a row is the difference between all rows and their first chunk, so that neither
    set-up nor query gradients are in it. `between` runs before each repeat: what takes turns. The
    Fisher's targets are sampled, by torch's global generator, which is seeded and put back.
    `damping` is absolute; None is a tenth of the mean eigenvalue.
    """
    from kronfluence.arguments import FactorArguments, ScoreArguments

    if len(job.rows.rows) <= job.chunk:
        raise ValueError(f"{len(job.rows.rows)} rows; give more than {job.chunk}")
    analyzer = analyzer_of(job, "mean")
    rows, queries = samples(job.rows), samples(job.queries)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        analyzer.fit_all_factors(
            "ekfac", rows, job.chunk, factor_args=FactorArguments(), overwrite_output_dir=True
        )
    fit_seconds = time.perf_counter() - start
    arguments = ScoreArguments(damping_factor=damping, aggregate_query_gradients=True)

    def score(some: Any) -> tuple[Tensor, float]:
        start = time.perf_counter()
        found = pairwise(analyzer, "ekfac", some, queries, arguments, job.chunk)
        return found[0].double() / len(queries), time.perf_counter() - start

    row_seconds = []
    for _ in range(repeats):
        between()
        few, (scores, many) = score(rows[: job.chunk])[1], score(rows)
        row_seconds.append((many - few) / (len(rows) - job.chunk))
    return Reference(scores, fit_seconds, row_seconds, analyzer.load_all_factors("ekfac"))


def analyzer_of(job: Job, query_reduction: str) -> Any:
    """Return kronfluence's Analyzer on a copy of the model, for the job's modules."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    names = [use.name for use in job.uses]

    class LanguageModeling(Task):
        """A row's loss is its sum; a query's measurement its sum or mean, over its targets."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            """Return the loss of the targets, or of targets drawn from the model itself."""
            if not sample:
                return summed_loss(model, batch)
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits.flatten(0, 1)
            with torch.no_grad():
                drawn = torch.multinomial(logits.float().softmax(-1), 1).flatten()
            drawn = drawn.where(batch["targets"].flatten() != -100, -100)
            return F.cross_entropy(logits.float(), drawn, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            """Return the queries' summed measurement."""
            if query_reduction == "sum":
                return summed_loss(model, batch)
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
            targets = batch["targets"]
            losses = F.cross_entropy(logits.mT, targets, reduction="none")  # [B, T], 0 at -100
            return (losses.sum(1) / (targets != -100).sum(1)).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            """Return the modules by name: by default it would take the head alone."""
            return names

    task = LanguageModeling()
    return Analyzer(
        analysis_name=f"kronfluence_{query_reduction}",
        model=prepare_model(linear_copy(job.view.model, job.uses), task),
        task=task,
        cpu=True,
        log_level=logging.ERROR,
        disable_tqdm=True,
        output_dir=str(_folder(job)),
    )


def _folder(job: Job) -> Path:
    folder = job.folder / "kronfluence"
    folder.mkdir(exist_ok=True)
    return folder
