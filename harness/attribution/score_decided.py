"""What has been decided on the way to a store: whoever resumes goes on with it, or may not.

It lies beside the scores from the start, in job.json, and is written before the numbers that it
explains. When the store is finished, about.json has it too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import read_json, write_json

STATE = "job.json"


@dataclass
class Decided:
    """Decisions of one store."""

    chunk_rows: int
    step: int = 0
    """Of the ladder of dampings."""
    rungs: list[dict[str, Any]] = field(default_factory=list)
    masked_rows: dict[str, str] = field(default_factory=dict)
    """Place in the pool -> why."""
    masked_queries: dict[str, str] = field(default_factory=dict)
    """Place among the queries -> why."""
    float32: str = ""
    """Why the queries, and all rows with them, are computed in float32; "" where they are not."""
    rank: dict[str, Any] | None = None
    """How well scores of low rank follow those of full rank."""

    @classmethod
    def read(cls, folder: Path, chunk_rows: int) -> Decided:
        """Return those of a folder, as far as it has come; a new one cuts into `chunk_rows`."""
        found = read_json(folder / STATE)
        return cls(chunk_rows) if found is None else cls(**found)

    def save(self, folder: Path) -> None:
        """Write them, whole or not at all."""
        write_json(folder / STATE, asdict(self))

    def told(self) -> list[dict[str, Any]]:
        """Return every rung that was needed, masks last."""
        if not self.masked_rows and not self.masked_queries:
            return list(self.rungs)
        counts = {"rows": len(self.masked_rows), "queries": len(self.masked_queries)}
        return [*self.rungs, {"rung": "mask", **counts}]

    def take(self, masked_queries: dict[int, str], float32: str) -> bool:
        """Take over what preparing the queries has come to; tell whether that is news.

        Where it is, scores that are there already are of other queries, or of another precision.
        """
        masked = {str(place): why for place, why in masked_queries.items()}
        if masked.keys() == self.masked_queries.keys() and float32 == self.float32:
            return False
        if float32 and not self.float32:
            self.rungs.append({"rung": "retry-float32", "queries": "all", "why": float32})
        self.masked_queries, self.float32, self.masked_rows = masked, float32, {}
        return True


def refuse_unless_allowed(folder: Path, rungs: list[dict[str, Any]], on_nonfinite: str) -> None:
    """Raise SpecError where the scores, finished or not, needed what is not allowed now."""
    needed = sorted({str(rung["rung"]) for rung in rungs} - {on_nonfinite})
    if needed:
        fix = f'set scores.on_nonfinite = "{needed[0]}", or delete the folder and score again'
        raise SpecError(f"{folder}: these scores needed {needed[0]}; {fix}")
