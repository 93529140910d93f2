"""The pass over the rows of one store: prepare the queries, then a chunk of rows at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.attribution import score_job, store
from harness.attribution.evaluation.baselines import BASELINES
from harness.attribution.score_about import about_of, write_texts
from harness.attribution.score_decided import Decided, refuse_unless_allowed
from harness.attribution.score_derive import save_array
from harness.attribution.score_passes import Scorer
from harness.attribution.score_rungs import MoreDampingError, NonFiniteScoresError, dampings
from harness.attribution.score_writer import NpyWriter, ParquetWriter, Writer
from harness.attribution.scorers import LEARNING, fitted_factors
from harness.errors import SpecError
from harness.files import write_json
from harness.influence import low_rank
from harness.influence.factor_files import FACTORS, load_factors, save_factors

if TYPE_CHECKING:
    from harness.api import Batch, State
    from harness.attribution.progress import Progress
    from harness.attribution.score_job import Job

FITTED = "fitted"
Say = Callable[[str], None]


def run(job: Job, progress: Progress, say: Say) -> None:
    """Write every chunk that is not there, then what they mean; the folder is the caller's alone.

    SpecError before anything is computed where what is there needed what is not allowed now.
    """
    decided = Decided.read(job.folder, job.options.chunk_rows)
    refuse_unless_allowed(job.folder, decided.told(), job.options.on_nonfinite)
    decided.save(job.folder)
    write_texts(job)
    started = time.perf_counter()
    fitted, estimator = _fit(job, say)
    scores = writer(job, decided.chunk_rows)
    ladder = dampings(estimator)
    while True:
        scorer = _scorer(job, ladder[decided.step], fitted, decided)
        try:
            _prepare(job, scorer, decided, scores)
            _measure_rank(job, scorer, decided, say)
            _chunks(job, scorer, scores, decided, progress, say)
            break
        except MoreDampingError as error:
            _raise_damping(job, ladder, decided, scores, str(error), say)
    about = about_of(job, scorer, decided)
    if job.options.self_influence:
        save_array(job.folder / store.SELF_QUERIES, scorer.self_queries())
    about["cost"] = {"seconds": round(time.perf_counter() - started, 3)}
    write_json(job.folder / store.ABOUT, about)


def _prepare(job: Job, scorer: Scorer, decided: Decided, scores: Writer) -> None:
    """Prepare the queries, and write down what that has come to before any score is."""
    scorer.prepare()
    if decided.take(scorer.masked_queries, scorer.float32):
        scores.clear()
        decided.save(job.folder)


def _scorer(job: Job, estimator: Any, fitted: State, decided: Decided) -> Scorer:
    options = job.options
    if job.detail:
        estimator = replace(estimator, detail=job.detail)
    # one query and no more: the engine may then take one forward pass per row
    directional = estimator.kind == "ekfac" and "check_rows" in fitted and estimator.route == "auto"
    if len(job.queries) == 1 and directional and not job.detail and options.rank is None:
        estimator = replace(estimator, queries="mean")
    if decided.float32:
        estimator = replace(estimator, precision="float32")

    def describe(row: Batch) -> str:
        domain = job.opened.view.probe_domains[int(row.domains[0])]
        return f"train row {int(row.rows[0])} of domain {domain!r}"

    return Scorer(
        job.chosen.label,
        job.opened.view,
        estimator,
        fitted,
        job.queries,
        rank=options.rank,
        whole_queries=options.whole_queries,
        detail=job.detail,
        self_influence=options.self_influence,
        on_nonfinite=options.on_nonfinite,
        describe=describe,
        shapes={name: shape[1:] for name, shape in job.shapes.items()},
        masked_queries={int(place): why for place, why in decided.masked_queries.items()},
        float32=decided.float32,
    )


def writer(job: Job, chunk_rows: int) -> Writer:
    """Return where chunks of rows go."""
    if job.options.store == "parquet":
        return ParquetWriter(job.folder)
    return NpyWriter(job.folder, job.shapes, chunk_rows)


def _fit(job: Job, say: Say) -> tuple[State, Any]:
    """Return what the estimator has fitted, and the estimator; what it learns here is kept."""
    chosen = job.chosen
    if chosen.strategy is not None:
        found: tuple[State, Any] = fitted_factors(
            job.opened, job.whole, job.spec, chosen, job.places
        )
        return found
    if chosen.kind in BASELINES:
        state = chosen.estimator.scored(job.opened, job.pool, job.queries)
        return state, chosen.estimator
    if chosen.kind not in LEARNING:
        return chosen.estimator.fit(job.opened.view, job.pool.batch([0])), chosen.estimator
    folder = job.folder / FITTED
    if not (folder / FACTORS).exists():
        rows = score_job.some_rows(job.whole, job.options.fit_rows)
        say(f"{chosen.label}: learns from {len(rows)} train rows")
        try:
            state = chosen.estimator.fit(job.opened.view, rows.batch(slice(None)))
        except FloatingPointError as error:
            raise NonFiniteScoresError(f"scores of {chosen.label!r}: {error}") from None
        except ValueError as error:
            raise SpecError(f"scores.estimators.{chosen.label}: {error}") from None
        save_factors(folder, state)
    return load_factors(folder), chosen.estimator


def _measure_rank(job: Job, scorer: Scorer, decided: Decided, say: Say) -> None:
    """Record once how well scores of low rank follow those of full rank, and say so."""
    rank = job.options.rank
    if rank is None or decided.rank is not None:
        return
    kept = [q for q in range(len(job.queries)) if q not in scorer.masked_queries]
    few = torch.tensor(kept[: job.options.whole_queries])
    query = job.queries.batch.select(few.to(job.queries.batch.rows.device))
    rows = score_job.some_rows(job.pool, job.options.rank_rows)
    found = low_rank.agreement(
        scorer.estimator, job.opened.view, scorer.fitted, query, rows.batch(slice(None)), rank
    )
    told = [value for value in found if value == value]  # a constant column has no rank
    decided.rank = {"rank": rank, "rows": len(rows), "queries": len(found), "spearman": told}
    decided.save(job.folder)
    if told:
        mean, low = float(np.mean(told)), min(told)
        sample = f"{len(rows)} rows x {len(found)} queries"
        say(
            f"{job.chosen.label}: rank {rank} against full rank on {sample}: "
            f"Spearman {mean:.4f} on average, {low:.4f} at the lowest"
        )


def _chunks(
    job: Job, scorer: Scorer, scores: Writer, decided: Decided, progress: Progress, say: Say
) -> None:
    size, total = decided.chunk_rows, len(job.pool)
    places = range(0, total, size)
    done = scores.done()
    label = job.chosen.label
    if done:
        before = sum(min(size, total - chunk * size) for chunk in done)
        say(f"{label}: {before} of {total} rows were scored before")
    with progress.track(total, f"score {label}") as advance:
        for chunk, first in enumerate(places):
            rows = slice(first, min(first + size, total))
            if chunk not in done:
                _chunk(job, scorer, scores, decided, chunk, rows)
            advance(rows.stop - rows.start)


def _chunk(
    job: Job, scorer: Scorer, scores: Writer, decided: Decided, chunk: int, rows: slice
) -> None:
    block = scorer.block(job.pool.batch(rows))
    for place, why in block.masked.items():
        decided.masked_rows[str(rows.start + place)] = why
    if block.rung:
        rung, _, why = block.rung.partition(", because ")
        told = {"rung": rung, "rows": [rows.start, rows.stop], "why": why}
        decided.rungs = [r for r in decided.rungs if r.get("rows") != told["rows"]] + [told]
    if block.masked or block.rung:
        decided.save(job.folder)  # first, so that no number lacks its explanation
    scores.write(chunk, rows.start, block.arrays)


def _raise_damping(
    job: Job, ladder: list[Any], decided: Decided, scores: Writer, why: str, say: Say
) -> None:
    decided.step += 1
    label = job.chosen.label
    if decided.step >= len(ladder):
        last = f"{ladder[-1].damping:g} {ladder[-1].damping_unit}"
        raise NonFiniteScoresError(f"scores of {label!r}: {why}; damping up to {last} did not help")
    now = ladder[decided.step]
    to = f"{now.damping:g} {now.damping_unit}"
    decided.rungs.append({"rung": "more-damping", "damping": to, "why": why})
    scores.clear()
    decided.save(job.folder)
    say(f"{label}: damping is now {to}, and every row is scored anew, because {why}")
