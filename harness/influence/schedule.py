"""When influence is looked at, on which rows, and by which estimator: settings of a rebalancer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from harness.influence.directional_estimator import Directional
from harness.influence.directional_forms import has_fast_bfloat16
from harness.influence.estimators import AnyEstimator, check_ranks
from harness.influence.interval import passes, reason

if TYPE_CHECKING:
    from harness.api import State, View

Count = Annotated[int, Field(strict=True, gt=0)]
CountOrNone = Annotated[int, Field(strict=True, ge=0)]


def _above_zero(every: int | str) -> int | str:
    if isinstance(every, int) and every < 1:  # one complaint, where a union makes two
        raise PydanticCustomError("interval", "Input should be 'auto' or greater than 0")
    return every


Interval = Annotated[
    Annotated[int, Field(strict=True)] | Literal["auto"], AfterValidator(_above_zero)
]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Schedule:
    """Refreshes of domain scores; harness/influence/rebalancing.py carries them out."""

    every: Interval = "auto"
    """Steps between refreshes; the first comes after this many. "auto": the fewest at which
    a refresh is a sixtieth of training's operations (harness/influence/interval.py; less on a GPU),
    and at most half the run."""
    rows: Count = 16
    """Candidate rows scored per domain at a refresh, off the training stream: a domain of little
    weight is known as well as any. Training has no losses of these rows, nor any at parameters that
    the last update has moved, so theirs cost a forward pass more."""
    probe_rows: Count = 32
    """Probe rows of each target domain that the query is made of."""
    probes: Literal["fresh", "fixed"] = "fresh"
    """New probe rows at each refresh (noise), or always the same (overfitting to them)."""
    estimator: AnyEstimator = Directional()
    """What scores a row: a name, or a table with `kind` and the estimator's own settings."""
    pool_rows: CountOrNone = 0
    """Train rows per domain that the estimator is fitted on; 0 for the candidates themselves."""
    refit: CountOrNone = 1
    """Refreshes between two fits of the estimator; 0 fits once and keeps it."""
    fidelity_every: CountOrNone = 10
    """Refreshes between comparisons with exact row gradients, the first included; 0 for none. A fit
    that is kept is compared whenever it is used."""
    fidelity_rows: Count = 4
    """Rows per domain that are compared."""
    stale_below: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    """Where a kept fit's rank correlation with exact scores is below this, it is noted as stale and
    made anew. 0 leaves it to the estimator: an Influcoder says when, others are trusted (EKFAC is
    compared with plain gradients and never near 1)."""

    def check_length(self, num_steps: int, domains: tuple[str, ...]) -> None:
        """Refuse a run that ends before the first refresh."""
        if self.every == "auto" and num_steps < 2:
            raise ValueError(f"every: no refresh comes in {num_steps} step; train for 2 or more")
        if self.every != "auto" and self.every >= num_steps:
            raise ValueError(
                f"every: no refresh comes in {num_steps} steps, at {self.every}; lower it"
            )

    def interval(self, view: View, state: State, bends: bool) -> int:
        """Return the steps between refreshes: as set, or found once, noted, and kept in `state`.

        Needs drawn rows, so it can be asked after step 0. `bends`: second derivatives are taken.
        """
        if self.every != "auto":
            return self.every
        if "every" not in state:
            targets, fast = int((view.targets > 0).sum()), has_fast_bfloat16(view)
            taken = passes(self, len(view.domains), targets, bends, fast)
            found = reason(taken, float(view.seen.sum()) / view.step, view.num_steps)
            view.note("interval", found)
            state["every"] = torch.tensor(found["every"])
        return int(state["every"])

    def check_ranks(self, sharded: bool) -> None:
        """Refuse what several ranks cannot compute."""
        check_ranks(self.estimator, sharded)
        if sharded and self.fidelity_every:
            why = "exact row gradients need whole parameters"
            raise ValueError(f'fidelity_every: {why}; set it to 0, or parallel = "ddp"')

    def check_pool(self, num_domains: int) -> None:
        """Refuse more landmarks than the rows that they are drawn from."""
        landmarks = getattr(self.estimator, "landmarks", 0)
        pool = num_domains * (self.pool_rows or self.rows)
        if landmarks > pool:
            fix = "raise pool_rows or rows, or lower landmarks"
            raise ValueError(f"estimator.landmarks: {landmarks}, of a pool of {pool} rows; {fix}")
