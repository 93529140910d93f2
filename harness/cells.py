"""The file of an ablation: arms x seeds, each cell with its runs and how they ended.

Any number of workers write it, each the whole. So one writes at a time, and puts in first what the
others have finished, and the seeds and arms that were added since it came: whoever writes last has
it all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.files import read_json, write_json
from harness.leases import TakenError
from harness.preflight import ablation_path, plain
from harness.records import SCHEMA

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.leases import Leases
    from harness.spec import Ablation
    from harness.worker import Outcome, Task

_POLL_SECONDS = 0.05
_BySeed = dict[int, dict[str, Any]]


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
    say: Callable[[str], None] = print
    is_behind: bool = False
    """Not all that is known has been written."""
    _ours: frozenset[tuple[str, int]] = field(init=False)
    """What this process came for; other cells of the file are for others to write."""

    def __post_init__(self) -> None:
        """Remember which cells are ours."""
        arms = self.content["arms"].items()
        self._ours = frozenset((label, c["seed"]) for label, arm in arms for c in arm["runs"])

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
        """Write the file, whole; where the store of leases is silent, the next time writes it."""
        key, silent = f"ablation-{self.sheet.path.stem}", lambda: bool(self.leases.trouble)
        self.is_behind = True
        try:
            with self.leases.held(key, poll=_POLL_SECONDS, stop=silent):
                self._adopt()
                self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
                write_json(*self.sheet)
                self.is_behind = False
        except TakenError:
            trouble = self.leases.trouble.removesuffix("; waiting")
            self.say(f"{trouble}; {self.sheet.path} lacks what has ended meanwhile")

    def _adopt(self) -> None:
        """Fill the cells that others have ended, and keep what only the file has."""
        for label, seed in self._ours:
            open_still = self._cell(label, seed)["status"] in ("pending", "interrupted")
            ended = self.look_up(label, seed) if open_still else None
            if ended is not None:
                self._fill(label, seed, ended)
        before = read_json(self.sheet.path)
        if before is not None:
            self._keep(before)

    def _keep(self, before: dict[str, Any]) -> None:
        """Put what the file has beyond ours into the content: seeds, arms, longer baselines."""
        content = self.content
        seeds = list(dict.fromkeys([*content["seeds"], *before["seeds"]]))
        content["seeds"] = content["spec"]["seeds"] = seeds
        for label, arm in before["arms"].items():
            if label not in content["arms"]:
                content["spec"]["arms"][label] = before["spec"]["arms"][label]
                content["arms"][label] = {**arm, "runs": []}
        for label, arm in content["arms"].items():
            there = before["arms"].get(label, {"runs": []})["runs"]
            ours, theirs = ({c["seed"]: c for c in runs} for runs in (arm["runs"], there))
            arm["runs"] = [self._chosen(label, seed, ours, theirs) for seed in seeds]

    def _chosen(self, label: str, seed: int, ours: _BySeed, theirs: _BySeed) -> dict[str, Any]:
        """Return our own cell, or the file's where it is not ours to write."""
        if (label, seed) not in self._ours:
            return theirs.get(seed) or _pending(seed)
        if seed in theirs:
            _keep_longer(theirs[seed], ours[seed])
        return ours[seed]


def _keep_longer(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Keep the baseline at a cell's compute, unless ours says as much or is another run's."""
    known, told = theirs.get("equal_compute"), ours.get("equal_compute")
    if known is None or theirs["run_id"] != ours["run_id"]:
        return
    if told is None or (known["status"] == "finished" and told["status"] != "finished"):
        ours["equal_compute"] = known


def _pending(seed: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"seed": seed, "status": "pending", "run_id": None, "reason": None}
    return cell | {"auxiliary": [], "shown": [], "plan_seconds": 0.0}


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
            label: {**arm, "runs": [_pending(seed) for seed in ablation.seeds]}
            for label, arm in spec["arms"].items()
        },
    }
    return Sheet(path, content)
