"""Where everything of one attribution lies: OUT/attribution/NAME, beside the runs and corpora.

A folder that depends on settings is named by their digest, so that two settings never share one and
nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE = "attribution.json"


@dataclass(frozen=True)
class Places:
    """Folders and files of the attribution `name` under `out`."""

    out: Path
    name: str

    @property
    def root(self) -> Path:
        """OUT/attribution/NAME."""
        return self.out / "attribution" / self.name

    @property
    def state(self) -> Path:
        """What was trained, and which checkpoint is attributed: written by `train`."""
        return self.root / STATE

    def looks(self, run_id: str) -> Path:
        """Memory and the clock while a run was trained, one JSON object a line."""
        return self.root / f"looks-{run_id}.jsonl"

    def factors(self, key: str) -> Path:
        """Fitted factors, their stages and health."""
        return self.root / "factors" / key

    def inspection(self, key: str) -> Path:
        """Pictures and the page of `inspect`."""
        return self.root / "inspect" / key

    def scores(self, key: str) -> Path:
        """The score store of one estimator on one pool and one set of queries."""
        return self.root / "scores" / key

    @property
    def pages(self) -> Path:
        """HTML pages to open: curves, top rows, evaluation."""
        return self.root / "pages"

    @property
    def selected(self) -> Path:
        """Training sets that `select` writes."""
        return self.root / "selected"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` has measured."""
        return self.root / "evaluation"
