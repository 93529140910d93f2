"""Scores of some rows, checked before anyone sees them, and what is done where they are not finite.

    error          stops, and names how many scores, which query, row and module
    mask           rows or queries that are to blame get zeros and are written down
    retry-float32  computes these rows again in float32, where the network was in bfloat16
    more-damping   raises the damping of an inverse; all rows are then scored anew, since scores of
                   two dampings do not compare

Scores are float64 until they are written as float32, so an overflow shows at that border; nothing
is clipped. A rung that was needed is in the store's about.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from harness.attribution.score_rungs import (
    MoreDampingError,
    NonFiniteScoresError,
    advice,
    is_damped,
    is_small,
)
from harness.attribution.score_self import self_scores
from harness.attribution.score_told import told, unfit
from harness.attribution.store import MODULES, SCORES, SELF, TOKENS
from harness.influence import low_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from harness.api import Batch, State, View
    from harness.attribution.rows import Queries
    from harness.influence.parts import Detail


class Block(NamedTuple):
    """Finite scores of some rows, and the rows that were masked."""

    arrays: dict[str, NDArray[np.float32]]
    masked: dict[int, str]  # place in the block -> why
    rung: str  # "" where none was needed


@dataclass
class Scorer:
    """One estimator with its prepared queries."""

    label: str
    view: View
    estimator: Any
    fitted: State
    queries: Queries
    rank: int | None = None
    whole_queries: int = 8
    detail: tuple[Detail, ...] = ()
    self_influence: bool = False
    on_nonfinite: str = "error"
    describe: Callable[[Batch], str] = lambda rows: ""
    """A row of one in words."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What is written -> its shape without the rows: [Q, ...]."""
    masked_queries: dict[int, str] = field(default_factory=dict)
    float32: str = ""
    """Why the queries had to be prepared in float32, and all is computed in it since."""
    about: dict[str, Any] = field(default_factory=dict)
    """What the estimator said of the last scores."""
    _prepared: dict[str, State] = field(default_factory=dict)  # by precision

    def prepare(self) -> None:
        """Prepare the queries; NonFiniteScoresError or MoreDampingError where that fails."""
        self._refuse_untold()
        while True:
            try:
                self.state(self.estimator)
                return
            except NonFiniteScoresError:
                raise
            except FloatingPointError as error:
                self._mend_queries(error)

    def block(self, rows: Batch) -> Block:
        """Return the rows' scores, all finite."""
        try:
            return Block(self._arrays(self.estimator, rows), {}, "")
        except FloatingPointError as error:
            return self._mended(rows, error)

    def self_scores(self, rows: Batch, estimator: Any) -> Tensor:
        """Return each row's score on itself [n] float64."""
        known = self.state(estimator).get("flops")  # kronfluence's own route has not counted them
        network = None if known is None else float(known)
        return self_scores(self.view, estimator, self.fitted, rows, network)

    def self_queries(self) -> NDArray[np.float64]:
        """Return each query's score on itself [Q]; 0 for those that are masked."""
        found = np.zeros(len(self.queries))
        found[self.kept()] = self.self_scores(self._batch(), self.estimator).double().cpu().numpy()
        return found

    def _refuse_untold(self) -> None:
        counted = self.queries.batch.mask.any(1).cpu().tolist()
        for place, is_told in enumerate(counted):
            if is_told or place in self.masked_queries:
                continue
            why = "has no counted target, so there is no loss to explain"
            if self.on_nonfinite != "mask":
                name = self.queries.names[place]
                fix = 'leave it out, raise batch.tokens, or set on_nonfinite = "mask"'
                raise NonFiniteScoresError(f"query {name!r} {why}; {fix}")
            self.masked_queries[place] = why

    def kept(self) -> list[int]:
        """Return the places of the queries that are not masked."""
        return [q for q in range(len(self.queries)) if q not in self.masked_queries]

    def _batch(self) -> Batch:
        """Return the queries that are not masked."""
        kept = self.kept()
        if not kept:
            first = next(iter(self.masked_queries.values()))
            raise NonFiniteScoresError(
                f"scores of {self.label!r}: no query is left; the first {first}"
            )
        return self.queries.batch.select(torch.tensor(kept).to(self.queries.batch.rows.device))

    def state(self, estimator: Any) -> State:
        """Return the prepared queries, at the estimator's precision."""
        key = getattr(estimator, "precision", "")
        if key not in self._prepared:
            self._prepared[key] = self._prepare(estimator, self._batch())
        return self._prepared[key]

    def _prepare(self, estimator: Any, queries: Batch) -> State:
        if self.rank is None:
            return estimator.prepare(self.view, self.fitted, queries)  # type: ignore[no-any-return]
        whole = self.whole_queries
        return low_rank.prepared_at_rank(
            estimator, self.view, self.fitted, queries, self.rank, whole
        )

    def _mend_queries(self, error: FloatingPointError) -> None:
        """Change something so that preparing is worth another try, or raise."""
        self._prepared.clear()
        if self.on_nonfinite == "retry-float32" and is_small(self.estimator):
            self.estimator = replace(self.estimator, precision="float32")
            self.float32 = str(error)
            return
        if self.on_nonfinite == "more-damping":
            raise self._damped(str(error))
        blamed = self._blamed_queries()
        if self.on_nonfinite == "mask" and blamed:
            self.masked_queries |= blamed
            return
        named = ", ".join(repr(self.queries.names[q]) for q in list(blamed)[:3])
        count = f"{len(blamed)} of {len(self.queries)} queries, first {named}: " if blamed else ""
        raise NonFiniteScoresError(
            f"scores of {self.label!r}: {count}{error}{advice(self.estimator, self.on_nonfinite)}"
        )

    def _blamed_queries(self) -> dict[int, str]:
        blamed = {}
        for place in self.kept():
            one = self.queries.batch.select(slice(place, place + 1))
            try:
                self.estimator.prepare(self.view, self.fitted, one)
            except FloatingPointError as error:
                blamed[place] = str(error)
        return blamed

    def _arrays(self, estimator: Any, rows: Batch) -> dict[str, NDArray[np.float32]]:
        """Return what is written of the rows; FloatingPointError where float32 cannot hold it."""
        state = self.state(estimator)
        found = estimator.score(self.view, state, rows)
        self.about = dict(found.about)
        values = {SCORES: found.total, MODULES: found.modules, TOKENS: found.tokens}
        if self.self_influence:
            values[SELF] = self.self_scores(rows, estimator)
        arrays = {n: v.double().cpu().numpy() for n, v in values.items() if v is not None}
        kept = self.kept()
        for name, array in arrays.items():
            if unfit(array).any():
                raise FloatingPointError(told(self, estimator, rows, name, array))
        return {
            name: _widened(array.astype(np.float32), kept, len(self.queries), name)
            for name, array in arrays.items()
        }

    def _mended(self, rows: Batch, error: FloatingPointError) -> Block:
        if self.on_nonfinite == "retry-float32" and is_small(self.estimator):
            again = replace(self.estimator, precision="float32")
            try:
                arrays = self._arrays(again, rows)
            except FloatingPointError as second:
                raise NonFiniteScoresError(
                    f"scores of {self.label!r}: {second}, in float32 too"
                ) from None
            return Block(arrays, {}, f"retry-float32, because {error}")
        if self.on_nonfinite == "more-damping":
            raise self._damped(str(error))
        if self.on_nonfinite == "mask":
            return self._masked(rows)
        raise NonFiniteScoresError(
            f"scores of {self.label!r}: {error}{advice(self.estimator, self.on_nonfinite)}"
        ) from None

    def _masked(self, rows: Batch) -> Block:
        """Return zeros for the rows that are to blame, be they all of them."""
        count = len(rows.rows)
        whole = {n: np.zeros((count, *shape), np.float32) for n, shape in self.shapes.items()}
        masked: dict[int, str] = {}
        for place in range(count):
            one = rows.select(slice(place, place + 1))
            try:
                for name, array in self._arrays(self.estimator, one).items():
                    whole[name][place] = array[0]
            except FloatingPointError as error:
                masked[place] = str(error)
        return Block(whole, masked, "")

    def _damped(self, why: str) -> Exception:
        if is_damped(self.estimator):
            return MoreDampingError(why)
        lacks = f"{self.estimator.kind} has no damping to raise"
        return NonFiniteScoresError(f"scores of {self.label!r}: {why}; more-damping: {lacks}")


def _widened(
    array: NDArray[np.float32], kept: list[int], num_queries: int, name: str
) -> NDArray[np.float32]:
    """Return [n, Q, ...] with zeros for masked queries."""
    if name == SELF or len(kept) == num_queries:
        return array
    whole = np.zeros((len(array), num_queries, *array.shape[2:]), np.float32)
    whole[:, kept] = array
    return whole
