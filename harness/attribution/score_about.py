"""What stands beside a store's numbers: the texts they are of, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.attribution import normalize, store
from harness.attribution.rows import show
from harness.attribution.score_rungs import NonFiniteScoresError

if TYPE_CHECKING:
    from harness.attribution.score_decided import Decided
    from harness.attribution.score_job import Job
    from harness.attribution.score_passes import Scorer


def write_texts(job: Job) -> None:
    """Write what rows and queries say, for reports that know no tokenizer."""
    if not (job.folder / store.QUERIES).exists():
        counts = job.queries.batch.mask.sum(1).tolist()
        lines = [
            store.Query(name, shown.prompt, shown.answer, int(count))._asdict()
            for name, shown, count in zip(job.queries.names, job.queries.shown, counts, strict=True)
        ]
        store.write_lines(job.folder / store.QUERIES, lines)
    if (job.folder / store.ROWS).exists():
        return

    def rows() -> Iterator[dict[str, Any]]:
        for first in range(0, len(job.pool), 256):
            batch = job.pool.batch(slice(first, first + 256))
            texts = show(batch, job.pool.tokenizer)
            picks = job.pool.picks[first : first + 256]
            counts = batch.mask.sum(1).tolist()
            for (domain, row), shown, count in zip(picks, texts, counts, strict=True):
                line = store.Row(domain, row, shown.prompt, shown.answer, int(count))
                yield line._asdict()

    store.write_lines(job.folder / store.ROWS, rows())


def about_of(job: Job, scorer: Scorer, decided: Decided) -> dict[str, Any]:
    """Return what the numbers mean, what they are of, and what happened on the way."""
    kept = [i for i in range(len(job.pool)) if str(i) not in decided.masked_rows]
    if not kept:
        whose, why = f"scores of {job.chosen.label!r}", decided.masked_rows["0"]
        raise NonFiniteScoresError(f"{whose}: none of {len(job.pool)} rows is finite; first, {why}")
    if not scorer.about:  # every chunk was there before
        scorer.block(job.pool.batch(kept[:1]))
    options, names = job.options, job.module_names
    masked_queries = [
        {"place": q, "name": job.queries.names[q], "why": why}
        for q, why in sorted(scorer.masked_queries.items())
    ]
    masked_rows = [
        {"place": int(place), "domain": job.pool.picks[int(place)][0], "why": why}
        for place, why in sorted(decided.masked_rows.items(), key=lambda item: int(item[0]))
    ]
    settings = {k: v for k, v in scorer.about.items() if k != "module_names"}
    return {
        "version": store.VERSION,
        "label": job.chosen.label,
        "estimator": job.chosen.kind,
        "strategy": job.chosen.strategy,
        "identity": job.identity,
        "num_rows": len(job.pool),
        "num_queries": len(job.queries),
        "queries": list(job.queries.names),
        "row_tokens": job.row_tokens,
        "module_names": names,
        "arrays": list(job.shapes) if options.store == "npy" else [],
        "store": options.store,
        "dtype": "float32",
        "sign": settings.get("sign", store.SIGN),
        "normalize": "none",
        "formula": normalize.FORMULAS["none"],
        "reduction": settings.get("reduction", "mean"),
        "self_influence": options.self_influence,
        "rank": decided.rank,
        "rungs": decided.told(),
        "masked_rows": masked_rows,
        "masked_queries": masked_queries,
        "settings": settings,
    }
