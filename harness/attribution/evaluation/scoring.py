"""Where estimators' scores come from: their stores, fitted and scored first where they are not.

All rows of the pool are scored, whatever part of them the spec's [scores] would do with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution.fit import fit
from harness.attribution.score import score, unfinished
from harness.attribution.score_checks import check_job
from harness.attribution.score_job import plan
from harness.attribution.scorers import choose, factors_table
from harness.attribution.store import ABOUT, ScoreStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.evaluation.judged import Found, Say
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.spec import Attribution

TOTALS: dict[str, Any] = {"rows": None, "modules": False, "tokens": False}


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
        """Return the scores [N, Q] of an estimator on a run's rows; NaN of what was masked."""
        store = self._store(self._taken(label, opened, pool, queries), label, opened, pool, queries)
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
        whole = self._with(**TOTALS, self_influence=True, normalize="none", rank=None)
        store = self._store(whole, label, opened, pool, queries)
        rows = list(store.masked_rows)
        if store.self_rows is None or not rows:
            return store.self_rows
        own: NDArray[np.float32] = np.array(store.self_rows)
        own[rows] = np.nan
        return own

    def identity(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> Found:
        """Return what decides the scores, and those of rows on themselves."""
        spec = self._with(**TOTALS, self_influence=True)
        return plan(opened, pool, queries, spec, label, self.places).identity

    def check(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> None:
        """Refuse what scores cannot be made with; factors are fitted where they are not there."""
        spec = self._taken(label, opened, pool, queries)
        job = unfinished(opened, pool, queries, spec, label, self.places)
        if job is not None:
            check_job(job)

    def _taken(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> Attribution:
        """Return the spec of the store that scores are read from.

        The spec's own is taken where it is there; else parts, which nobody reads, are not computed.
        """
        whole = self._with(rows=None)
        own = plan(opened, pool, queries, whole, label, self.places).folder
        return whole if (own / ABOUT).exists() else self._with(**TOTALS)

    def _with(self, **options: Any) -> Attribution:
        """Return the spec with other options of [scores]."""
        return replace(self.spec, scores=replace(self.spec.scores, **options))

    def _store(
        self, spec: Attribution, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> ScoreStore:
        where = (self.places, self.progress, self.say)
        strategy = choose(spec, label).strategy
        if strategy not in (None, "identity"):
            fit(opened, pool, factors_table(spec, strategy), *where)
        return ScoreStore.open(score(opened, pool, queries, spec, label, *where))
