"""Score train rows for every query: one estimator, one pass over the rows, one store.

Query gradients are prepared once; then the rows go by in chunks, each written before the next is
computed, so that SIGKILL costs a chunk. A store is named by the digest of everything that decides
its numbers: other weights, rows, queries, settings or factors are another store, never a stale one.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.attribution import score_job, store
from harness.attribution.evaluation.baselines import BASELINES
from harness.attribution.progress import SILENT, Progress
from harness.attribution.score_about import about_of, write_texts
from harness.attribution.score_derive import derive, save_array
from harness.attribution.score_job import Job
from harness.attribution.score_passes import Scorer
from harness.attribution.score_rungs import MoreDampingError, NonFiniteScoresError, dampings
from harness.attribution.score_writer import NpyWriter, ParquetWriter, Writer
from harness.attribution.scorers import LEARNING, fitted_factors
from harness.attribution.store import ScoreStore
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.influence import low_rank
from harness.influence.factor_files import FACTORS, load_factors, save_factors

if TYPE_CHECKING:
    from harness.api import Batch, State
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.spec import Attribution

STATE = "job.json"  # what has been decided so far; about.json takes its place
LOCK = "lock"
FITTED = "fitted"
Say = Callable[[str], None]


def score(
    opened: Opened,
    pool: Pool,
    queries: Queries,
    spec: Attribution,
    label: str,
    places: Places,
    progress: Progress = SILENT,
    say: Say = print,
) -> Path:
    """Score by the estimator `label`; return the store's folder, at once where it is finished."""
    job = score_job.plan(opened, pool, queries, spec, label, places, say)
    found = _finished(job)
    if found is not None:
        say(f"{label}: scores found finished ({job.key})")
        return job.folder
    if job.options.normalize != "none":
        plain = replace(job.options, normalize="none")
        raw = score(
            opened, pool, queries, replace(spec, scores=plain), label, places, progress, say
        )
        with _alone(job.folder):
            derive(job, ScoreStore.open(raw), _writer(job, job.options.chunk_rows))
        return job.folder
    score_job.check_room(job)
    with _alone(job.folder):
        _run(job, progress, say)
    return job.folder


def open_scores(
    opened: Opened, pool: Pool, queries: Queries, spec: Attribution, label: str, places: Places
) -> ScoreStore:
    """Return the store that `score` makes; SpecError where it is not there, or only stale ones."""
    job = score_job.plan(opened, pool, queries, spec, label, places)
    if (job.folder / store.ABOUT).exists():
        return _current(job)
    raise SpecError(f"scores of {label!r}: {_why_not(job)}; run attribute score")


def _why_not(job: Job) -> str:
    """Say what there is instead: an unfinished store, stale ones and what has changed, nothing."""
    if (job.folder / STATE).exists():
        return "are not finished"
    nearest: list[str] | None = None
    for path in sorted(job.folder.parent.glob(f"*/{store.ABOUT}")):
        about = read_json(path)
        if about["label"] != job.chosen.label:
            continue
        changed = [n for n, value in job.identity.items() if about["identity"].get(n) != value]
        nearest = changed if nearest is None or len(changed) < len(nearest) else nearest
    if nearest is None:
        return "are not there"
    return f"are stale, {', '.join(nearest)} changed since"


def _finished(job: Job) -> ScoreStore | None:
    if not (job.folder / store.ABOUT).exists():
        return None
    found = _current(job)
    needed = {rung["rung"] for rung in found.about["rungs"]} - {job.options.on_nonfinite}
    if needed:
        rung = sorted(needed)[0]
        fix = f'set scores.on_nonfinite = "{rung}", or delete the folder and score again'
        raise SpecError(f"{job.folder}: these scores needed {rung}; {fix}")
    return found


def _current(job: Job) -> ScoreStore:
    """Open the store, at the threshold asked for now: it is read with the scores, not in them."""
    found = ScoreStore.open(job.folder)
    if found.about["threshold"] != job.options.threshold:
        write_json(job.folder / store.ABOUT, {**found.about, "threshold": job.options.threshold})
    return ScoreStore.open(job.folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; SpecError where another process does. A killed process holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpecError(f"{folder}: another process scores into it; wait for it") from None
        yield


def _run(job: Job, progress: Progress, say: Say) -> None:
    """Write every chunk that is not there, then what they mean."""
    state = read_json(job.folder / STATE) or {
        "chunk_rows": job.options.chunk_rows,
        "step": 0,
        "rungs": [],
        "masked_rows": {},
        "rank": None,
    }
    write_json(job.folder / STATE, state)
    write_texts(job)
    started = time.perf_counter()
    fitted, estimator = _fit(job, say)
    writer = _writer(job, state["chunk_rows"])
    ladder = dampings(estimator)
    while True:
        scorer = _scorer(job, ladder[state["step"]], fitted)
        try:
            scorer.prepare()
            _measure_rank(job, scorer, state, say)
            _chunks(job, scorer, writer, state, progress, say)
            break
        except MoreDampingError as error:
            _raise_damping(job, ladder, state, writer, str(error), say)
    if job.options.self_influence:
        save_array(job.folder / store.SELF_QUERIES, scorer.self_scores(job.queries.batch).numpy())
    about = about_of(job, scorer, state)
    about["cost"] = {"seconds": round(time.perf_counter() - started, 3)}
    write_json(job.folder / store.ABOUT, about)


def _scorer(job: Job, estimator: Any, fitted: State) -> Scorer:
    options = job.options
    if job.detail:
        estimator = replace(estimator, detail=job.detail)
    # one query and no more: the engine may then take one forward pass per row
    directional = estimator.kind == "ekfac" and "check_rows" in fitted and estimator.route == "auto"
    if len(job.queries) == 1 and directional and not job.detail and options.rank is None:
        estimator = replace(estimator, queries="mean")

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
    )


def _writer(job: Job, chunk_rows: int) -> Writer:
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


def _measure_rank(job: Job, scorer: Scorer, state: dict[str, Any], say: Say) -> None:
    """Record once how well scores of low rank follow those of full rank, and say so."""
    rank = job.options.rank
    if rank is None or state["rank"] is not None:
        return
    kept = [q for q in range(len(job.queries)) if q not in scorer.masked_queries]
    few = torch.tensor(kept[: job.options.whole_queries])
    query = job.queries.batch.select(few.to(job.queries.batch.rows.device))
    rows = score_job.some_rows(job.pool, job.options.rank_rows)
    found = low_rank.agreement(
        scorer.estimator, job.opened.view, scorer.fitted, query, rows.batch(slice(None)), rank
    )
    told = [value for value in found if value == value]  # a constant column has no rank
    state["rank"] = {"rank": rank, "rows": len(rows), "queries": len(found), "spearman": told}
    write_json(job.folder / STATE, state)
    if told:
        mean, low = float(np.mean(told)), min(told)
        sample = f"{len(rows)} rows x {len(found)} queries"
        say(
            f"{job.chosen.label}: rank {rank} against full rank on {sample}: "
            f"Spearman {mean:.4f} on average, {low:.4f} at the lowest"
        )


def _chunks(
    job: Job, scorer: Scorer, writer: Writer, state: dict[str, Any], progress: Progress, say: Say
) -> None:
    size, total = state["chunk_rows"], len(job.pool)
    places = range(0, total, size)
    done = writer.done()
    label = job.chosen.label
    if done:
        before = sum(min(size, total - chunk * size) for chunk in done)
        say(f"{label}: {before} of {total} rows were scored before")
    with progress.track(total, f"score {label}") as advance:
        for chunk, first in enumerate(places):
            rows = slice(first, min(first + size, total))
            if chunk not in done:
                _chunk(job, scorer, writer, state, chunk, rows)
            advance(rows.stop - rows.start)


def _chunk(
    job: Job, scorer: Scorer, writer: Writer, state: dict[str, Any], chunk: int, rows: slice
) -> None:
    block = scorer.block(job.pool.batch(rows))
    for place, why in block.masked.items():
        state["masked_rows"][str(rows.start + place)] = why
    if block.rung:
        rung, _, why = block.rung.partition(", because ")
        told = {"rung": rung, "rows": [rows.start, rows.stop], "why": why}
        state["rungs"] = [r for r in state["rungs"] if r.get("rows") != told["rows"]] + [told]
    if block.masked or block.rung:
        write_json(job.folder / STATE, state)  # first, so that no number lacks its explanation
    writer.write(chunk, rows.start, block.arrays)


def _raise_damping(
    job: Job, ladder: list[Any], state: dict[str, Any], writer: Writer, why: str, say: Say
) -> None:
    state["step"] += 1
    label = job.chosen.label
    if state["step"] >= len(ladder):
        last = f"{ladder[-1].damping:g} {ladder[-1].damping_unit}"
        raise NonFiniteScoresError(f"scores of {label!r}: {why}; damping up to {last} did not help")
    now = ladder[state["step"]]
    to = f"{now.damping:g} {now.damping_unit}"
    state["rungs"].append({"rung": "more-damping", "damping": to, "why": why})
    writer.clear()
    write_json(job.folder / STATE, state)
    say(f"{label}: damping is now {to}, and every row is scored anew, because {why}")
