"""One ablation from spec to records: corpus, grid, and the file of which run fills which cell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness.api import Mixer
from harness.corpus import corpus_id, open_corpus
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.grid import Grid, Outcome, Progress, Site, Task
from harness.plans import recall
from harness.resolve import num_cores, resolve
from harness.spec import Ablation, describe
from harness.trackers import Mirror, open_trackers

if TYPE_CHECKING:
    from harness.corpus import TokenStore


@dataclass
class Cells:
    """The ablation's file: arms x seeds, each with its runs and their state."""

    path: Path
    content: dict[str, Any]

    def settle(self, label: str, seed: int, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        cell = next(c for c in self.content["arms"][label]["runs"] if c["seed"] == seed)
        pairs = [{"run_id": run_id, "role": role} for run_id, role in outcome.auxiliary]
        cell |= {"status": outcome.status, "run_id": outcome.run_id, "reason": outcome.reason}
        cell["auxiliary"] = pairs
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path, self.content)


class Display:
    """What a person sees of a grid; harness/display.py shows it in a terminal."""

    def say(self, text: str) -> None:
        """Show a line about the set-up."""

    def open(self, total: int, found: int) -> None:
        """Begin a grid of `total` cells, of which `found` were finished before."""

    def progress(self, progress: Progress) -> None:
        """Show where a run is."""

    def outcome(self, task: Task, outcome: Outcome) -> None:
        """Show how a cell ended."""

    def close(self) -> None:
        """End the grid."""


@dataclass(frozen=True)
class Summary:
    """How the ablation went."""

    finished: int
    failed: list[tuple[str, int, str]] = field(default_factory=list)  # (label, seed, reason)
    interrupted: bool = False


def run_ablation(
    ablation: Ablation, out: Path, jobs: int | None, display: Display, command: list[str]
) -> Summary:
    """Run every (arm, seed) that is not finished yet; SpecError before any compute."""
    specs = resolve(ablation, corpus_id(ablation.corpus))
    mirror = _open_mirror(ablation, out)
    out.mkdir(parents=True, exist_ok=True)
    tasks = [Task(label, seed, spec) for (label, seed), spec in specs.items()]
    found = {task: carried for task in tasks if (carried := recall(out, task.spec)) is not None}
    missing = [task for task in tasks if task not in found]
    workers = min(jobs or max(1, num_cores() // tasks[0].spec.threads), max(1, len(missing)))
    site = Site(out, ablation.corpus, ablation.checkpoint, ablation.trackers, ablation.name)
    failed: list[tuple[str, int, str]] = []
    with _grid(site, workers if missing else 0, display) as grid:
        store = open_corpus(ablation.corpus, out / "corpora", display.say)
        _check_rows(ablation, store)
        cells = _cells(ablation, out, store, shlex.join(command))
        for task, carried in found.items():
            cells.settle(
                task.label, task.seed, Outcome("finished", carried.main, carried.auxiliary)
            )
            mirror.replay(out / "runs" / carried.main, ablation.name, task.label)

        def settle(task: Task, outcome: Outcome) -> None:
            cells.settle(task.label, task.seed, outcome)
            display.outcome(task, outcome)
            if outcome.status == "failed":
                failed.append((task.label, task.seed, outcome.reason or "unknown"))

        display.open(len(tasks), len(found))
        cells.save()
        completed = grid is None or grid.run(_longest_first(missing), settle)
    return Summary(len(tasks) - len(failed), failed, not completed)


def _open_mirror(ablation: Ablation, out: Path) -> Mirror:
    try:
        return open_trackers(ablation.trackers, out)
    except ValueError as error:
        raise SpecError(str(error)) from None


def _check_rows(ablation: Ablation, store: TokenStore) -> None:
    """Refuse a corpus in which a split that will be read has no whole row."""
    tokens, splits = ablation.batch.tokens, ("probe", *ablation.evaluation.splits)
    needed = [(domain, split) for domain in store.domains for split in splits]
    for domain, split in [*((domain, "train") for domain in store.trained), *needed]:
        size = len(store.stream(domain, split))
        if size < tokens + 1:
            raise SpecError(
                f"domains.{domain}: its {split} split has {size} tokens "
                f"and a row needs {tokens + 1}; give it more text, or lower batch.tokens"
            )


@contextmanager
def _grid(site: Site, workers: int, display: Display) -> Iterator[Grid | None]:
    """Yield a grid whose workers are already importing torch, or None where none is needed."""
    if not workers:
        yield None
        return
    grid = Grid(site, workers, display.progress)
    try:
        grid.warm_up()
        yield grid
    finally:
        display.close()
        grid.close()


def _longest_first(tasks: list[Task]) -> list[Task]:
    """Put plans of several runs before single runs, so that no core idles at the end."""

    def is_single(task: Task) -> bool:
        return type(task.spec.mixer).plan is Mixer.plan

    return sorted(tasks, key=is_single)


def _cells(ablation: Ablation, out: Path, store: TokenStore, command: str) -> Cells:
    path = out / "ablations" / f"{ablation.name}.json"
    path.parent.mkdir(exist_ok=True)
    before = read_json(path) or {}
    arms = {
        label: {
            "method": arm.method,
            "settings": describe(arm.settings)["settings"],
            "control": arm.control,
            "runs": [
                {"seed": s, "status": "pending", "run_id": None, "reason": None, "auxiliary": []}
                for s in ablation.seeds
            ],
        }
        for label, arm in ablation.arms.items()
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {
        "schema": 1,
        "name": ablation.name,
        "baseline": ablation.baseline,
        "primary": ablation.primary,
        "targets": ablation.targets,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "seeds": list(ablation.seeds),
        "corpus_id": store.id,
        "command": command,
        "spec": TypeAdapter(Ablation).dump_python(ablation, mode="json"),
        "created": before.get("created", now),
        "updated": now,
        "arms": arms,
    }
    return Cells(path, content)
