"""The file of an ablation: arms x seeds, each cell with its runs and how they ended.

Any number of workers write it, each the whole. So one writes at a time, and puts in first what the
others have finished: whoever writes last has it all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.files import read_json, write_json
from harness.preflight import ablation_path, plain
from harness.records import SCHEMA

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.leases import Leases
    from harness.spec import Ablation
    from harness.worker import Outcome, Task

_POLL_SECONDS = 0.05


class Sheet(NamedTuple):
    """The ablation's file: where it is, and what is in it."""

    path: Path
    content: dict[str, Any]


@dataclass
class Cells:
    """The ablation's file: arms x seeds, each with its runs and their state."""

    sheet: Sheet
    leases: Leases
    look_up: Callable[[str, int], Outcome | None]
    """How a cell of this label and seed has ended, if a worker has seen its end."""

    @property
    def content(self) -> dict[str, Any]:
        """Return what is in the file, or will be."""
        return self.sheet.content

    def settle(self, task: Task, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        self._fill(task.label, task.seed, outcome)
        self.save()

    def _fill(self, label: str, seed: int, outcome: Outcome) -> None:
        cell = self._cell(label, seed)
        pairs = [{"run_id": run_id, "role": role} for run_id, role in outcome.auxiliary]
        cell |= {"status": outcome.status, "run_id": outcome.run_id, "reason": outcome.reason}
        cell |= {"auxiliary": pairs, "shown": list(outcome.shown)}
        cell["plan_seconds"] = outcome.plan_seconds

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
        with self.leases.held(f"ablation-{self.sheet.path.stem}", poll=_POLL_SECONDS):
            self._adopt()
            self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(*self.sheet)

    def _adopt(self) -> None:
        """Fill the cells that others have ended."""
        for label, arm in self.content["arms"].items():
            for cell in arm["runs"]:
                open_still = cell["status"] in ("pending", "interrupted")
                ended = self.look_up(label, cell["seed"]) if open_still else None
                if ended is not None:
                    self._fill(label, cell["seed"], ended)


def begin(
    ablation: Ablation,
    out: Path,
    store: TokenStore,
    model_id: str,
    command: str,
) -> Sheet:
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
    return Sheet(path, content)
