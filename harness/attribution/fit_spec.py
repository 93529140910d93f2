"""What `attribute fit` is asked for: the table [factors] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Factors:
    """The curvature that scores divide by."""

    strategy: Literal["ekfac", "kfac", "diagonal", "identity"] = "ekfac"
    modules: tuple[str, ...] = ("mlp",)
    """"linear", "mlp", or regular expressions of module names."""
    rows: Count | None = None
    """Train rows to fit on, in the pool's keyed order; all of them by default."""
