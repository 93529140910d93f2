"""What `attribute score` is asked for: the table [scores] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Scoring:
    """Which estimators score which rows, and how scores are kept."""

    estimators: tuple[str, ...] = ("ekfac", "grad_cos")
    rows: Count | None = None
    """Train rows that are scored; all of them by default."""
