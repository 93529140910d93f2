"""The attributed run, trained again on other rows, as often as it takes.

A retraining is the run's own spec with edited rows and, for replicas, other seeds: the same steps,
the same loop, found by its content, resumed after an interrupt. Nothing is evaluated on the way.
Rows that are left out stay silent in their places by default, so that two retrainings differ in
them and in nothing else. The mixer is the run's where it samples by natural proportions or there is
one domain; otherwise the mean of the weights that it sampled with stands in for it, and that is
said.

What is measured of a finished retraining is small and kept apart from it, by run and queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.api import Mixer
from harness.attribution.evaluation.sampled import Sampled
from harness.attribution.opened import open_run
from harness.edited import edited
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.grid import Grid
from harness.model import token_losses
from harness.opening import spec_of
from harness.queued import RunFailedError
from harness.records import HEADER, RECORDS, read_records
from harness.resolve import num_fitting
from harness.rng import key
from harness.runner import Runner, open_finished
from harness.spec import Checkpoint, Edit
from harness.worker import Outcome, Site, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from harness.api import Batch
    from harness.attribution.evaluate_spec import Order
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool, Queries
    from harness.spec import RunSpec
    from harness.worker import Progress as Step

CHUNK_ROWS = 32
_EVERY = Checkpoint()
Say = Callable[[str], None]


@dataclass(frozen=True)
class Retraining:
    """Trains an attributed run again."""

    opened: Opened
    spec: RunSpec
    """The run's own, without evaluation."""
    places: Places
    jobs: int | None
    progress: Progress
    say: Say

    @property
    def out(self) -> Path:
        """Return where the run lies, and its corpus: retrainings lie beside it."""
        return self.opened.folder.parents[1]

    @property
    def seconds(self) -> float:
        """Return how long the run itself trained."""
        header = read_json(self.opened.folder / HEADER)
        return float(header["costs"]["train"]["seconds"])

    def edited(self, edit: Edit | None, replica: int = 0) -> RunSpec:
        """Return the run with other rows; replica 0 has its seeds, each other one its own.

        SpecError where its rows cannot be edited so.
        """
        spec = replace(self.spec, edit=edit)
        if not replica:
            self._check(edit)
            return spec
        seed, data_seed = (key(s, "replica", replica) for s in (spec.seed, spec.data_seed))
        return replace(spec, seed=seed, data_seed=data_seed)

    def _check(self, edit: Edit | None) -> None:
        """SpecError where a run could not be trained on these rows: known before it is begun."""
        if edit is None:
            return
        try:
            edited(self.opened.shelf("train"), edit, self.opened.store)
        except ValueError as error:
            raise SpecError(f"evaluate: {error}") from None

    def train(self, specs: Sequence[RunSpec], label: str) -> None:
        """Train what is not finished; RunFailedError names the first run that failed, and why."""
        runs = self.out / "runs"
        distinct = {spec.run_id: spec for spec in specs}
        missing = [spec for run_id, spec in distinct.items() if not _is_finished(runs / run_id)]
        if not missing:
            return
        jobs = min(self.jobs or num_fitting(self.spec), len(missing))
        once = self.seconds / jobs / 60
        cost = f"about {len(missing) * once:.1f} min by what the run itself took"
        self.say(
            f"{label}: training {len(missing)} of {len(distinct)} runs, {jobs} at once; {cost}"
        )
        with self.progress.track(len(missing), label) as advance:
            if jobs == 1:
                self._one_by_one(missing, advance)
            else:
                self._at_once(missing, jobs, label, advance)

    def _one_by_one(self, specs: list[RunSpec], advance: Callable[[int], None]) -> None:
        store = self.opened.store
        runner = Runner(self.out, store, _EVERY, lambda _: _Nobody())
        for spec in specs:
            try:
                runner.ensure(spec)
            except RunFailedError as error:
                raise RunFailedError(f"run {spec.run_id}: {error}") from error
            advance(1)

    def _at_once(
        self, specs: list[RunSpec], jobs: int, label: str, advance: Callable[[int], None]
    ) -> None:
        site = Site(self.out, _EVERY, (), self.places.name)
        failed: list[str] = []

        def end(task: Task, outcome: Outcome) -> None:
            if outcome.status == "failed":
                failed.append(f"run {task.spec.run_id}: {outcome.reason}")
            advance(1)

        grid = Grid(site, jobs, _ignore, self.say)
        try:
            tasks = [Task(label, number, spec) for number, spec in enumerate(specs)]
            completed = grid.run(tasks, end)
        finally:
            grid.close()
        if failed:
            raise RunFailedError(f"{len(failed)} of {len(specs)} failed; {failed[0]}")
        if not completed:
            raise KeyboardInterrupt

    def open(self, spec: RunSpec) -> Opened:
        """Return a trained run, opened."""
        return open_run(self.out / "runs" / spec.run_id, source=self.spec.model.source)

    def losses(self, specs: Sequence[RunSpec], queries: Queries) -> NDArray[np.float64]:
        """Return the mean loss of each query [R, Q] under each trained run, in nats a token."""
        return np.array([self._losses(spec, queries) for spec in specs])

    def _losses(self, spec: RunSpec, queries: Queries) -> list[float]:
        folder = self.places.evaluation / "losses" / queries.id
        path = folder / f"{spec.run_id}.json"
        kept = read_json(path)
        if kept is None:
            source = self.spec.model.source
            model, _ = open_finished(self.out / "runs", spec.run_id, source=source)
            kept = query_losses(model, queries.batch, spec).tolist()
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, kept)
        return [float(loss) for loss in kept]


def begin(
    opened: Opened, places: Places, jobs: int | None, progress: Progress, say: Say
) -> Retraining:
    """Return what trains the opened run again."""
    header = read_json(opened.folder / HEADER)
    spec = replace(spec_of(header), evaluation=None, max_repetitions=None, label="retraining")
    if spec.edit is not None:
        raise SpecError(f"{opened.folder}: was trained on edited rows; attribute the run itself")
    return Retraining(
        opened, replace(spec, mixer=_mixer(opened, header, say)), places, jobs, progress, say
    )


def query_losses(model: nn.Module, batch: Batch, spec: RunSpec) -> NDArray[np.float64]:
    """Return the mean loss of each row [B] over its counted targets, in nats a token, float64."""
    enabled, found = spec.precision == "bfloat16", []
    for first in range(0, len(batch.rows), CHUNK_ROWS):
        rows = batch.select(slice(first, first + CHUNK_ROWS))
        with torch.no_grad(), torch.autocast(spec.device, torch.bfloat16, enabled=enabled):
            losses = token_losses(model, rows).double()
        found.append(losses.sum(1) / rows.mask.sum(1).clamp(min=1))
    means: NDArray[np.float64] = torch.cat(found).cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(means))
    if len(bad):
        raise FloatingPointError(f"run {spec.run_id}: the loss of query {bad[0]} is not finite")
    return means


def leaving_out(pool: Pool, index: Sequence[int], order: Order) -> Edit:
    """Return the edit that trains on the pool without its rows at `index`.

    Rows that no pool has, since nothing in them has a loss, teach nothing and do not matter.
    """
    gone = {int(i) for i in index}
    if order == "kept":
        return Edit(silent=_by_domain(pool, gone))
    left = _by_domain(pool, set(range(len(pool))) - gone)
    # a domain that is not named would keep every row
    return Edit(
        only={name: left.get(name, ()) for name in sorted({name for name, _ in pool.picks})}
    )


def _by_domain(pool: Pool, index: set[int]) -> dict[str, tuple[int, ...]]:
    """Return the rows of the pool at `index`, by domain, ascending."""
    found: dict[str, list[int]] = {}
    for i in index:
        name, row = pool.picks[i]
        found.setdefault(name, []).append(row)
    return {name: tuple(sorted(rows)) for name, rows in sorted(found.items())}


def _mixer(opened: Opened, header: dict[str, Any], say: Say) -> Mixer:
    told = header["spec"]["mixer"]["class"]
    if told == f"{Mixer.__module__}:{Mixer.__qualname__}" or len(header["domains"]) == 1:
        return Mixer()
    steps = [r["weights"] for r in read_records(opened.folder / RECORDS) if r["kind"] == "step"]
    weights = tuple(np.mean(steps, axis=0).tolist())
    say(f"retraining: the mean of the run's sampled weights stands in for {told.split(':')[1]}")
    return Sampled(weights)


def _is_finished(folder: Path) -> bool:
    header = read_json(folder / HEADER)
    return header is not None and header["status"] == "finished"


class _Nobody:
    """A Watch that looks away."""

    def found(self, folder: Path) -> None:
        """Ignore it."""

    def begin(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def end(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Ignore it."""

    def record(self, record: dict[str, Any]) -> None:
        """Ignore it."""

    def stop(self) -> bool:
        """Never ask."""
        return False


def _ignore(step: Step) -> None:
    """Show nothing: the bar counts runs."""
