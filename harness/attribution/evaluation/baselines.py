"""What attribution has to beat: scores of rows for queries that know nothing of gradients.

similarity   cosine of the model's last hidden states, averaged over the counted targets' inputs
bm25         words that a row's text and a query's share (bm25s, Lucene's form, its defaults)
random       normal draws, keyed by seed

All of them are [N, Q], higher for rows that should help more, like every other score here. By the
same names they are estimators of [scores], with stores of their own, to be looked at beside others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.errors import SpecError
from harness.rng import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from harness.api import Batch, Note, State, View
    from harness.attribution.opened import Opened
    from harness.attribution.rows import Pool, Queries

    Scorer = Callable[[Opened, Pool, Queries, int], NDArray[np.float32]]

CHUNK_ROWS = 32


def similarity(opened: Opened, pool: Pool, queries: Queries, seed: int) -> NDArray[np.float32]:
    """Return cosines of mean hidden states [N, Q]; FloatingPointError names a bad row."""
    parts = (range(i, min(i + CHUNK_ROWS, len(pool))) for i in range(0, len(pool), CHUNK_ROWS))
    rows = torch.cat([_mean_states(opened, pool.batch(part)) for part in parts])
    others = torch.cat(
        [
            _mean_states(opened, queries.batch.select(slice(i, i + CHUNK_ROWS)))
            for i in range(0, len(queries), CHUNK_ROWS)
        ]
    )
    for name, states in (("train row", rows), ("query", others)):
        bad = (~states.isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise FloatingPointError(f"similarity: the hidden states of {name} {bad[0]} overflow")
    found: NDArray[np.float32] = (rows @ others.T).numpy()
    return found


def _mean_states(opened: Opened, batch: Batch) -> Tensor:
    """Return unit vectors [B, width]: the last hidden states that counted targets come from."""
    model: Any = opened.view.model
    with torch.no_grad():
        output = model(input_ids=batch.inputs, use_cache=False, output_hidden_states=True)
    states = output.hidden_states[-1].float()  # [B, T, width]
    weights = batch.mask.float()[:, :, None]
    mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    opened.view.bill(opened.view.row_flops.forward * len(batch.rows), batch.targets.numel())
    return torch.nn.functional.normalize(mean, dim=1).cpu()


def bm25(opened: Opened, pool: Pool, queries: Queries, seed: int) -> NDArray[np.float32]:
    """Return BM25 of each row's text for each query's [N, Q]; 0 where they share no word."""
    bm25s = import_bm25s()
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it builds
    texts = [shown.text for shown in pool.texts()]
    options: dict[str, Any] = {"stopwords": None, "show_progress": False, "return_ids": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, **options), show_progress=False)
    asked = bm25s.tokenize([shown.text for shown in queries.shown], **options)
    known = index.vocab_dict
    found = np.zeros((len(pool), len(queries)), dtype=np.float32)
    for q, words in enumerate(asked):
        there = [word for word in words if word in known]
        if there:
            found[:, q] = index.get_scores(there)
    return found


def import_bm25s() -> Any:
    """Return the package; SpecError where it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        fix = 'pip install "steelyard[evaluation]", or leave bm25 out of evaluate.baselines'
        raise SpecError(f"evaluate.baselines: bm25 needs bm25s ({error}); {fix}") from None
    return bm25s


def random(opened: Opened, pool: Pool, queries: Queries, seed: int) -> NDArray[np.float32]:
    """Return keyed normal draws [N, Q]."""
    keyed = generator(seed, "random scores", pool.id, queries.id)
    found: NDArray[np.float32] = torch.randn(len(pool), len(queries), generator=keyed).numpy()
    return found


BASELINES: dict[str, Scorer] = {"similarity": similarity, "bm25": bm25, "random": random}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Baseline:
    """A baseline where an estimator is expected: all is known at once, and then looked up."""

    kind: Literal["similarity", "bm25", "random"]
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Of random scores."""

    def scored(self, opened: Opened, pool: Pool, queries: Queries) -> State:
        """Return every score, and which rows and queries they are of."""
        total = torch.from_numpy(BASELINES[self.kind](opened, pool, queries, self.seed)).double()
        parts = (range(i, min(i + CHUNK_ROWS, len(pool))) for i in range(0, len(pool), CHUNK_ROWS))
        rows, row_order = torch.cat([_numbers(pool.batch(part)) for part in parts]).sort()
        columns, column_order = _numbers(queries.batch).sort()
        return {"total": total[row_order][:, column_order], "rows": rows, "queries": columns}

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return the columns of these queries."""
        columns = torch.searchsorted(fitted["queries"], _numbers(query))
        return {"total": fitted["total"][:, columns], "rows": fitted["rows"]}

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return the scores [N, Q] of these rows."""
        found = prepared["total"][torch.searchsorted(prepared["rows"], _numbers(rows))]
        return Scores(found, about=self.about())

    def about(self) -> dict[str, Note]:
        """Return what a score means, for records and reports."""
        sign = "positive: the row is said to help; nothing of a loss is known"
        return {"estimator": self.kind, "reduction": "none", "sign": sign, **asdict(self)}


def _numbers(batch: Batch) -> Tensor:
    """Return domain and row as one number [B], which tells rows apart."""
    return batch.domains.cpu() * 2**40 + batch.rows.cpu()
