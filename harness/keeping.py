"""Which checkpoints of a run outlive it: the one of lowest tuning loss, and one every so often.

What decides is read from the run's own records, so a run that was killed and resumed keeps the
same ones. The loss is that of all tuning targets of the trained domains together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

BEST = "best.pt"


def step_file(step: int) -> str:
    """Return the name of the checkpoint that is kept of a step."""
    return f"step-{step:06}.pt"


def tuning_losses(
    records: Iterable[Mapping[str, Any]], domains: tuple[str, ...]
) -> dict[int, float]:
    """Return the tuning loss over `domains` at each evaluated step, nats per token."""
    sums: dict[int, tuple[float, int]] = {}
    for record in records:
        is_ours = record["kind"] == "eval" and record["split"] == "tuning"
        if is_ours and record["domain"] in domains:
            nats, count = sums.get(record["step"], (0.0, 0))
            size = record["num_tokens"]
            sums[record["step"]] = nats + record["nats_per_token"] * size, count + size
    return {step: nats / count for step, (nats, count) in sums.items()}


def best_step(losses: Mapping[int, float]) -> int | None:
    """Return the step of lowest loss, the earliest of several; None where there is none."""
    return min(losses, key=lambda step: (losses[step], step)) if losses else None


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
