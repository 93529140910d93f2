"""Score train rows for every query: one estimator, one pass over the rows, one store.

Query gradients are prepared once; then the rows go by in chunks, each written before the next is
computed, so that SIGKILL costs a chunk. A store is named by the digest of everything that decides
its numbers: other weights, rows, queries, settings or factors are another store, never a stale one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.attribution import score_job, store
from harness.attribution.alone import alone
from harness.attribution.progress import SILENT, Progress
from harness.attribution.score_checks import check_job, missing
from harness.attribution.score_decided import STATE, refuse_unless_allowed
from harness.attribution.score_derive import derive
from harness.attribution.score_run import run, writer
from harness.attribution.scorers import fitted_factors
from harness.attribution.store import ScoreStore
from harness.errors import SpecError
from harness.files import read_json

if TYPE_CHECKING:
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.score_job import Job
    from harness.attribution.spec import Attribution

SCORES_THERE = "scores into it"
Say = Callable[[str], None]


def check(opened: Opened, pool: Pool, queries: Queries, spec: Attribution, places: Places) -> None:
    """Refuse what any label cannot be scored with before one of them is; SpecError.

    Factors have to be there. Scores that are finished need nothing any more.
    """
    for label in spec.scores.estimators:
        job = unfinished(opened, pool, queries, spec, label, places)
        if job is None:
            continue
        if job.chosen.strategy is not None:
            fitted_factors(opened, pool, spec, job.chosen, places)
        check_job(job)


def unfinished(
    opened: Opened, pool: Pool, queries: Queries, spec: Attribution, label: str, places: Places
) -> Job | None:
    """Return what `score` has to compute for a label; None where it is there."""
    job = score_job.plan(opened, pool, queries, spec, label, places)
    if _finished(job) is None and job.options.normalize != "none":
        job = score_job.plan(opened, pool, queries, _plain(job), label, places)
    return job if _finished(job) is None else None


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
        raw = score(opened, pool, queries, _plain(job), label, places, progress, say)
        with alone(job.folder, SCORES_THERE):
            derive(job, ScoreStore.open(raw), writer(job, job.options.chunk_rows))
        return job.folder
    check_job(job)
    with alone(job.folder, SCORES_THERE):
        try:
            run(job, progress, say)
        except ImportError as error:  # of a package that is there and does not load
            raise missing(label, error) from error
        except SpecError:
            raise
        except ValueError as error:  # the engine's: of what shows only in a pass
            told = " ".join(str(error).split())
            raise SpecError(f"scores.estimators.{label}: {told}") from error
    return job.folder


def _plain(job: Job) -> Attribution:
    """Return the spec of the scores that normalised ones are made from."""
    return replace(job.spec, scores=replace(job.options, normalize="none"))


def open_scores(
    opened: Opened, pool: Pool, queries: Queries, spec: Attribution, label: str, places: Places
) -> ScoreStore:
    """Return the store that `score` makes; SpecError where it is not there, or only stale ones.

    It is read under this label and at the threshold asked for now; the store itself knows neither
    of a threshold nor of another label of the same settings.
    """
    job = score_job.plan(opened, pool, queries, spec, label, places)
    if (job.folder / store.ABOUT).exists():
        found = ScoreStore.open(job.folder)
        return replace(found, named=label, threshold=job.options.threshold)
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
    found = ScoreStore.open(job.folder)
    refuse_unless_allowed(job.folder, found.about["rungs"], job.options.on_nonfinite)
    return found
