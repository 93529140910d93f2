"""FLOPs of many passes that are alike, from counting some of them.

torch's counter makes a pass of a small model several times slower, so every 16th is counted and
the others are taken to cost the same per row. That is exact where rows have equal lengths; with an
encoder that pads text to the longest of a batch it is a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.influence.gradients import _counter

EVERY = 16


class SampledFlops:
    """A running total."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.passes, self.rows = 0, 0
        self._counted_rows, self._counted = 0, 0.0

    @contextmanager
    def of(self, rows: int) -> Iterator[None]:
        """Take in one pass over so many rows."""
        self.passes, self.rows = self.passes + 1, self.rows + rows
        if (self.passes - 1) % EVERY:
            yield
            return
        with _counter() as counter:
            yield
        self._counted_rows += rows
        self._counted += counter.get_total_flops()

    @property
    def total(self) -> float:
        """Return the FLOPs of all passes."""
        return self._counted / max(1, self._counted_rows) * self.rows
