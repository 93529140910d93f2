"""The file of an ablation: arms x seeds, each cell with its runs and how they ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import read_json, write_json
from harness.preflight import ablation_path, plain
from harness.records import SCHEMA

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.spec import Ablation
    from harness.worker import Outcome, Task


@dataclass
class Cells:
    """The ablation's file: arms x seeds, each with its runs and their state."""

    path: Path
    content: dict[str, Any]

    def settle(self, task: Task, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        cell = self._cell(task.label, task.seed)
        pairs = [{"run_id": run_id, "role": role} for run_id, role in outcome.auxiliary]
        cell |= {"status": outcome.status, "run_id": outcome.run_id, "reason": outcome.reason}
        cell |= {"auxiliary": pairs, "shown": list(outcome.shown)}
        cell["plan_seconds"] = outcome.plan_seconds
        self.save()

    def settle_longer(self, pairs: list[tuple[str, int]], num_steps: int, outcome: Outcome) -> None:
        """Write down how the baseline ended that was trained at the compute of these cells."""
        told = {"num_steps": num_steps, "status": outcome.status, "run_id": outcome.run_id}
        told |= {"reason": outcome.reason}
        for label, seed in pairs:
            self._cell(label, seed)["equal_compute"] = told
        self.save()

    def _cell(self, label: str, seed: int) -> dict[str, Any]:
        runs: list[dict[str, Any]] = self.content["arms"][label]["runs"]
        return next(cell for cell in runs if cell["seed"] == seed)

    def save(self) -> None:
        """Write the file, whole."""
        self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path, self.content)


def begin(ablation: Ablation, out: Path, store: TokenStore, model_id: str, command: str) -> Cells:
    """Return the file of an ablation whose cells are all pending."""
    path, spec = ablation_path(ablation, out), plain(ablation)
    path.parent.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pending: dict[str, Any] = {"status": "pending", "run_id": None, "reason": None}
    pending |= {"auxiliary": [], "shown": [], "plan_seconds": 0.0}
    content = {
        "schema": SCHEMA,
        "name": ablation.name,
        "baseline": ablation.baseline,
        "primary": ablation.primary,
        "targets": ablation.targets,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "seeds": list(ablation.seeds),
        "corpus_id": store.id,
        "model_id": model_id,
        "command": command,
        "spec": spec,
        "created": (read_json(path) or {}).get("created", now),
        "updated": now,
        "arms": {
            label: {**arm, "runs": [{"seed": seed, **pending} for seed in ablation.seeds]}
            for label, arm in spec["arms"].items()
        },
    }
    return Cells(path, content)
