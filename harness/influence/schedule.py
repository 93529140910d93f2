"""When influence is looked at, on which rows, and by which estimator: settings of a rebalancer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.influence.directional_estimator import Directional
from harness.influence.estimators import AnyEstimator, check_ranks

Count = Annotated[int, Field(strict=True, gt=0)]
CountOrNone = Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Schedule:
    """Refreshes of domain scores; harness/influence/rebalancing.py carries them out."""

    every: Count = 100
    """Steps between refreshes; the first comes after this many."""
    rows: Count = 16
    """Candidate rows scored per domain at a refresh, off the training stream: so their losses are
    not known yet, and cost a forward pass more."""
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
        if self.every >= num_steps:
            raise ValueError(
                f"every: no refresh comes in {num_steps} steps, at {self.every}; lower it"
            )

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
