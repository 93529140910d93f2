"""Where estimators' scores come from: their stores, fitted and scored first where they are not.

All rows of the pool are scored, whatever part of them the spec's [scores] would do with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.attribution.fit import fit
from harness.attribution.score import score
from harness.attribution.score_job import plan
from harness.attribution.scorers import choose, factors_table
from harness.attribution.store import ABOUT, ScoreStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.evaluation.judged import Say
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.spec import Attribution


@dataclass(frozen=True)
class Stores:
    """The score stores of an attribution."""

    spec: Attribution
    places: Places
    progress: Progress
    say: Say

    def scores(
        self, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> NDArray[np.float32]:
        """Return the scores [N, Q] of an estimator on a run's rows; NaN of what was masked.

        The spec's own store is taken where it is there; else parts, which nobody reads, are not
        computed.
        """
        scores = replace(self.spec.scores, rows=None)
        whole = replace(self.spec, scores=scores)
        own = plan(opened, pool, queries, whole, label, self.places).folder
        if not (own / ABOUT).exists():
            whole = replace(self.spec, scores=replace(scores, modules=False, tokens=False))
        store = self._store(whole, label, opened, pool, queries)
        rows, columns = list(store.masked_rows), list(store.masked_queries)
        if not rows and not columns:
            return store.total
        total: NDArray[np.float32] = np.array(store.total)
        total[rows], total[:, columns] = np.nan, np.nan
        return total

    def own(
        self, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> NDArray[np.float32] | None:
        """Return each row's score on itself [N]; None for estimators that have none, and cosines.

        A row's score on itself is not normalised: dividing by it would leave ones.
        """
        chosen = choose(self.spec, label)
        if not chosen.is_hooked or chosen.kind == "grad_cos":
            return None
        asked = replace(
            self.spec.scores,
            rows=None,
            self_influence=True,
            normalize="none",
            modules=False,
            tokens=False,
            rank=None,
        )
        whole = replace(self.spec, scores=asked)
        store = self._store(whole, label, opened, pool, queries)
        rows = list(store.masked_rows)
        if store.self_rows is None or not rows:
            return store.self_rows
        own: NDArray[np.float32] = np.array(store.self_rows)
        own[rows] = np.nan
        return own

    def _store(
        self, spec: Attribution, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> ScoreStore:
        where = (self.places, self.progress, self.say)
        strategy = choose(spec, label).strategy
        if strategy not in (None, "identity"):
            fit(opened, pool, factors_table(spec, strategy), *where)
        return ScoreStore.open(score(opened, pool, queries, spec, label, *where))
