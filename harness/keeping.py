"""Which checkpoints of a run outlive it: the one of lowest tuning loss, and one every so often.

What decides is read from the run's own records, so a run that was killed and resumed keeps the
same ones. The loss is that of all tuning targets of the trained domains together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from harness.records import tuning_losses

BEST = "best.pt"


def step_file(step: int) -> str:
    """Return the name of the checkpoint that is kept of a step."""
    return f"step-{step:06}.pt"


class Keeper:
    """Tells the loop which files to keep of the step it has just evaluated."""

    def __init__(self, domains: tuple[str, ...], keeps_best: bool, every: int | None) -> None:
        self._domains, self._keeps_best, self._every = domains, keeps_best, every
        self._lowest = math.inf

    def take_up(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Learn what an interrupted run had seen."""
        self._lowest = min(tuning_losses(records, self._domains).values(), default=math.inf)

    def files(self, step: int, evaluated: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the names to keep this step's checkpoint under."""
        found = [step_file(step)] if self._every and step and step % self._every == 0 else []
        if self._keeps_best:
            loss = min(tuning_losses(evaluated, self._domains).values(), default=math.inf)
            if loss < self._lowest:
                self._lowest = loss
                found.append(BEST)
        return found
