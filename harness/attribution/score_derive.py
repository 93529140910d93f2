"""A normalised store, from the plain one: no row is scored again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution import normalize, store
from harness.attribution.score_rungs import NonFiniteScoresError
from harness.files import whole_file, write_json

if TYPE_CHECKING:
    from harness.attribution.score_job import Job
    from harness.attribution.score_writer import Writer
    from harness.attribution.store import ScoreStore


def derive(job: Job, raw: ScoreStore, writer: Writer) -> None:
    """Write the normalised store from the plain one, a chunk at a time."""
    rows, queries = raw.rows(), raw.queries()
    by_row, by_query = normalize.divisors(
        job.options.normalize,
        str(raw.about["reduction"]),
        np.array([row.tokens for row in rows]),
        np.array([query.tokens for query in queries]),
        raw.self_rows,
        raw.self_queries,
    )
    for name in (store.ROWS, store.QUERIES):
        with whole_file(job.folder / name) as file:
            file.write((raw.folder / name).read_bytes())
    writer.clear()
    sources = {store.SCORES: raw.total, store.MODULES: raw.modules, store.TOKENS: raw.tokens}
    for chunk, first in enumerate(range(0, len(rows), job.options.chunk_rows)):
        part = slice(first, first + job.options.chunk_rows)
        values = {
            name: normalize.divided(array[part], by_row[part], by_query).astype(np.float32)
            for name, array in sources.items()
            if array is not None
        }
        for name, array in values.items():
            if not np.isfinite(array).all():
                count = int((~np.isfinite(array)).sum())
                fix = "use another normalize"
                raise NonFiniteScoresError(
                    f"scores of {job.chosen.label!r}, {job.options.normalize}: {count} of "
                    f"{array.size} in {name} do not fit float32, from row {first} on; {fix}"
                )
        if raw.self_rows is not None:
            values[store.SELF] = np.asarray(raw.self_rows[part])
        writer.write(chunk, first, values)
    if raw.self_queries is not None:
        save_array(job.folder / store.SELF_QUERIES, np.asarray(raw.self_queries))
    how = job.options.normalize
    changed = {
        "identity": job.identity,
        "normalize": how,
        "formula": normalize.FORMULAS[how],
        "from": raw.folder.name,
    }
    write_json(job.folder / store.ABOUT, {**raw.about, **changed})


def save_array(path: Path, array: Any) -> None:
    """Write a small array, whole; refuse what float32 cannot hold."""
    with np.errstate(over="ignore"):
        small = np.asarray(array).astype(np.float32)
    if not np.isfinite(small).all():
        count = int((~np.isfinite(small)).sum())
        raise NonFiniteScoresError(f"{path.name}: {count} of {small.size} scores are not finite")
    with whole_file(path) as file:
        np.save(file, small)
