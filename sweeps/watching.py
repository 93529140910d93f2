"""What is heard of a trial's runs while they train: the objective's curve, for who may end them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files import read_json
from harness.records import HEADER, RECORDS, read_records

Stop = Callable[[], bool]
Curve = Callable[[int, float], bool]
"""Hears of (step, objective) at each evaluation of a run; true ends the run there."""


class Losses:
    """The objective at each evaluated step of one run, from its records as they come."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._heard: dict[int, dict[str, float]] = {}
        self.at: dict[int, float] = {}
        """Step to objective, nats per token."""

    def hear(self, record: Mapping[str, Any]) -> int | None:
        """Take a record; return the step whose objective is complete with it."""
        if record["kind"] != "eval" or record["split"] != "tuning":
            return None
        step, heard = record["step"], self._heard.setdefault(record["step"], {})
        heard[record["domain"]] = record["nats_per_token"]
        if step in self.at or not self._weights.keys() <= heard.keys():
            return None
        self.at[step] = sum(weight * heard[name] for name, weight in self._weights.items())
        return step


class RunWatch:
    """Follows a run for the pruner and for whoever else looks on."""

    def __init__(
        self, weights: Mapping[str, float], curve: Curve | None, inner: Any, stop: Stop
    ) -> None:
        self._losses, self._curve = Losses(weights), curve
        self._inner, self._stop = inner, stop
        self.is_pruned = False
        self.header: dict[str, Any] = {}
        self.tokens = 0

    def found(self, folder: Path) -> None:
        """Hear of a run that was finished before: its curve too, which may still be pruned."""
        self.header = read_json(folder / HEADER)
        if self._inner is not None:
            self._inner.found(folder)
        self._replay(read_records(folder / RECORDS))

    def begin(self, header: dict[str, Any]) -> None:
        """Hear that the run starts, or resumes."""
        self.header = header
        if self._inner is not None:
            self._inner.begin(header)

    def end(self, header: dict[str, Any]) -> None:
        """Hear how it ended."""
        self.header = header
        if self._inner is not None:
            self._inner.end(header)

    def resumed(self, records: Sequence[dict[str, Any]]) -> None:
        """Hear what it had written before."""
        if self._inner is not None:
            self._inner.resumed(records)
        self._replay(records)

    def record(self, record: dict[str, Any]) -> None:
        """Hear of one record."""
        if self._inner is not None:
            self._inner.record(record)
        self._hear(record)

    def stop(self) -> bool:
        """Tell whether the run is to end: pruned, or as others ask."""
        return self.is_pruned or self._stop() or (self._inner is not None and self._inner.stop())

    def _replay(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            self._hear(record)

    def _hear(self, record: dict[str, Any]) -> None:
        self.tokens = record.get("tokens", self.tokens)
        step = self._losses.hear(record)
        # the untrained model tells settings apart by nothing
        if step and self._curve is not None and not self.is_pruned:
            self.is_pruned = self._curve(step, self._losses.at[step])
