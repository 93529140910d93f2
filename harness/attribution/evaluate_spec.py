"""What `attribute evaluate` is asked for: the table [evaluate] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Evaluating:
    """How attribution and model are judged."""

    subsets: Count = 40
    """Random subsets that the model is retrained on, for the linear datamodelling score."""
