"""What every part of an evaluation needs: the run, its rows, its queries, the scores to be judged.

Scores of an estimator come from its store, made first if it is not there; baselines have none and
are computed anew, which takes seconds. All are [N, Q], positive where a row is said to help.

What an estimator has masked has no score, and NaN says so. A query that one label knows nothing of
is left out for all of them; a row of which nothing is known adds nothing to a sum, and comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from harness.attribution.evaluation.baselines import BASELINES
from harness.attribution.evaluation.multiple_choice import Question, read_questions
from harness.attribution.evaluation.retraining import Retraining, begin
from harness.attribution.rows import Queries
from harness.errors import SpecError
from harness.identity import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.evaluate_spec import Evaluating
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool
    from harness.attribution.spec import Attribution

Say = Callable[[str], None]
Found = dict[str, Any]
"""What a part has measured: plain JSON values."""


class Scorer(Protocol):
    """Where estimators' scores come from."""

    def scores(
        self, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> NDArray[np.float32]:
        """Return the scores [N, Q] of an estimator on a run's rows; NaN of masked ones, whole."""

    def own(
        self, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> NDArray[np.float32] | None:
        """Return each row's score on itself [N]; None where that says nothing, as of a cosine.

        NaN of a masked row.
        """

    def identity(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> Found:
        """Return what decides both: settings, code, versions, and what a fit has left out."""

    def check(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> None:
        """Refuse what scores cannot be made with; SpecError. Nothing is computed."""


def masked_queries(scores: NDArray[np.float64]) -> list[int]:
    """Return the queries of which no score [N, Q] is known."""
    found: list[int] = np.flatnonzero(np.isnan(scores).all(0)).tolist()
    return found


@dataclass(frozen=True, eq=False)
class Judged:
    """An attribution that is judged."""

    opened: Opened
    pool: Pool
    queries: Queries
    spec: Attribution
    places: Places
    progress: Progress
    say: Say
    scorer: Scorer
    _scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def options(self) -> Evaluating:
        """The spec's table [evaluate]."""
        return self.spec.evaluate

    @cached_property
    def questions(self) -> list[Question]:
        """Multiple-choice questions, read once: what is measured is what the key tells."""
        return read_questions(self.options.choice) if self.options.choice else []

    @property
    def asked(self) -> tuple[str, ...]:
        """Labels of [scores] that are judged; SpecError for one that it lacks."""
        known = tuple(self.spec.scores.estimators)
        for label in self.options.estimators:
            if label not in known:
                raise SpecError(
                    f"evaluate.estimators: {label!r} is none of scores.estimators "
                    f"({', '.join(known)}); add it there"
                )
        return self.options.estimators or known

    @property
    def estimators(self) -> tuple[str, ...]:
        """Those of them that know of gradients."""
        return tuple(label for label in self.asked if self.kind(label) not in BASELINES)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines that are asked for, and estimators of [scores] that are no more than that.

        SpecError where an estimator goes by the name of a baseline that it is not.
        """
        for label in self.spec.scores.estimators:
            kind = self.kind(label)
            if label in BASELINES and kind != label:
                fix = "give it another label"
                raise SpecError(f"scores.estimators.{label}: is of kind {kind}, no {label}; {fix}")
        own = (label for label in self.asked if label not in self.estimators)
        return tuple(dict.fromkeys((*own, *self.options.baselines)))

    @property
    def labels(self) -> tuple[str, ...]:
        """Estimators, then baselines."""
        return (*self.estimators, *self.baselines)

    def kind(self, label: str) -> str:
        """Return what an estimator of [scores] is."""
        given = self.spec.scores.estimators[label]
        return given if isinstance(given, str) else str(given["kind"])

    def scores(self, label: str) -> NDArray[np.float64]:
        """Return the scores [N, Q] of an estimator or a baseline."""
        if label not in self._scores:
            self._scores[label] = self.scores_on(label, self.opened, self.pool, self.queries)
        return self._scores[label]

    def scores_on(
        self, label: str, opened: Opened, pool: Pool, queries: Queries
    ) -> NDArray[np.float64]:
        """Return scores [N, Q] on a run's rows, NaN of masked rows and queries.

        FloatingPointError where any other is not finite.
        """
        if label in self.asked:
            found = self.scorer.scores(label, opened, pool, queries)
        else:
            found = BASELINES[label](opened, pool, queries, self.options.seed)
        scores = np.asarray(found, dtype=np.float64)
        assert scores.shape == (len(pool), len(queries)), (label, scores.shape)
        unknown = np.isnan(scores)
        masked = unknown.all(axis=1, keepdims=True) | unknown.all(axis=0, keepdims=True)
        if masked.all():
            raise FloatingPointError(f"{label}: every score was masked; see its store")
        bad = np.argwhere(~np.isfinite(scores) & ~masked)
        if len(bad):
            row, query = bad[0]
            where = f"{label}: {len(bad)} scores are not finite, the first of row {row}"
            raise FloatingPointError(f"{where} for query {queries.names[query]}")
        return scores

    def self_influence(self, label: str, opened: Opened, pool: Pool) -> NDArray[np.float64] | None:
        """Return each row's score on itself [N] in another run, where the estimator has one."""
        all_of_them, few = self.queries, slice(0, 2)  # scores of queries are not what is asked for
        batch, shown = all_of_them.batch.select(few), all_of_them.shown[few]
        key = digest([all_of_them.id, "the first two"])
        queries = replace(
            all_of_them, batch=batch, shown=shown, names=all_of_them.names[few], id=key
        )
        found = self.scorer.own(label, opened, pool, queries)
        if found is None:
            return None
        own = np.asarray(found, dtype=np.float64)
        if np.isinf(own).any() or np.isnan(own).all():
            raise FloatingPointError(f"{label}: a row's score on itself is not finite")
        return own

    def known(self) -> Judged:
        """Return the same without the queries that an estimator has masked."""
        gone = {q for label in self.estimators for q in masked_queries(self.scores(label))}
        if not gone:
            return self
        left = [q for q in range(len(self.queries)) if q not in gone]
        if not left:
            raise FloatingPointError("evaluate: every query was masked by some estimator")
        own = self.queries
        names, shown = tuple(own.names[q] for q in left), tuple(own.shown[q] for q in left)
        queries = Queries(
            own.batch.select(torch.tensor(left)), shown, names, digest([own.id, left])
        )
        scores = {label: found[:, left] for label, found in self._scores.items()}
        return replace(self, queries=queries, _scores=scores)

    def masked(self) -> dict[str, int]:
        """Return how many rows each label has masked, of those that have."""
        counts = {label: int(np.isnan(own).all(1).sum()) for label, own in self._scores.items()}
        return {label: count for label, count in counts.items() if count}

    def retraining(self) -> Retraining:
        """Return what trains the run again."""
        jobs = self.options.jobs
        return begin(self.opened, self.places, jobs, self.progress, self.say)

    def refuse_too_many(self, key: str, count: int) -> None:
        """SpecError where more rows are asked for than half of the pool."""
        if count > len(self.pool) // 2:
            why = f"{count} rows, and the pool has {len(self.pool)}"
            raise SpecError(f"evaluate.{key}: {why}; at most half of them")
