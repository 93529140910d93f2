"""Compute once for each ablation that was read: several parts of a report ask for one table."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from reports.load import Evidence

T = TypeVar("T")


def once(function: Callable[[Evidence], T]) -> Callable[[Evidence], T]:
    """Remember what `function` returns for as long as its evidence is kept; not to be changed."""
    found: WeakKeyDictionary[Evidence, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(evidence: Evidence) -> T:
        if evidence not in found:
            found[evidence] = function(evidence)
        return found[evidence]

    return remembered
