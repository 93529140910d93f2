"""A trial as others follow it: rows of its first seed for the sweep, and all of its runs in W&B.

A sweep reads one run for a trial. Its rows are those of the first seed's main run, so that they
come while there is still something to stop; the last row has the mean over seeds, which is what
settings are compared by. The price is that the curve's last point and the mean are two numbers
under one name, the second right after the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import read_json
from harness.records import HEADER, RECORDS, read_records
from harness.trackers import Mirror, scalars
from sweeps.watching import Losses

if TYPE_CHECKING:
    from harness.spec import RunSpec

OBJECTIVE = "tuning/objective"
"""The metric of every sweep: what a study minimizes, nats per token."""
FAMILIES = ("tokens", "weights/", "tuning/")
EVERY = 10  # steps between rows that have weights alone, as for any run in W&B
PATIENCE_SECONDS = 20.0  # for a tracker, where many records come at once
Put = Callable[[int, dict[str, float]], None]


class Rows:
    """Makes rows of a run's records: one for each evaluation, and of weights every few steps."""

    def __init__(self, weights: Mapping[str, float], put: Put) -> None:
        """Take the weight of each domain in the objective; `put` takes (step, numbers)."""
        self._losses, self._put = Losses(weights), put
        self._header: Mapping[str, Any] = {}
        self._row: dict[str, float] = {}
        self._is_due = False
        self.step, self.tokens = 0, 0

    def begin(self, header: Mapping[str, Any]) -> None:
        """Learn the run's domains."""
        self._header = header

    def hear(self, record: Mapping[str, Any]) -> None:
        """Take a record; a step's row is complete when the next step begins."""
        if record["step"] != self.step:
            self.flush()
        self.step = record["step"]
        found = scalars(record, self._header)
        self._row |= {k: v for k, v in found.items() if k.startswith(FAMILIES)}
        self.tokens = int(found.get("tokens", self.tokens))
        self._is_due |= record["kind"] == "eval" or self.step % EVERY == 0
        if (step := self._losses.hear(record)) is not None:
            self._row[OBJECTIVE] = self._losses.at[step]

    def flush(self) -> None:
        """Put the row that is being made, where it is due."""
        if self._row and self._is_due:
            self._put(self.step, self._row)
        self._row, self._is_due = {}, False


class Sink:
    """Where rows go: the agent's run, the file that `steelyard sweep local` reads, the terminal."""

    def __init__(self, mirror: Mirror, path: Path | None, say: Callable[[str], None]) -> None:
        """Write to `path` where it is given; a row that cannot be written is left out."""
        self._mirror, self._path, self._say = mirror, path, say

    def __call__(self, step: int, numbers: dict[str, float]) -> None:
        """Take one row, and say how low the loss is by then."""
        self.put(step, numbers)
        if OBJECTIVE in numbers:
            self._say(f"step {step}: tuning loss {numbers[OBJECTIVE]:.4f}")

    def put(self, step: int, numbers: dict[str, float]) -> None:
        """Take one row."""
        self._mirror.log({"step": step, "numbers": numbers})
        if self._path is not None:
            with suppress(OSError), self._path.open("a") as file:
                file.write(json.dumps({"step": step, **numbers}) + "\n")


class Follower:
    """Opens a watch for each run of a trial: `sweeps.trial.Onlooker`."""

    def __init__(self, rows: Rows, members: Mirror, group: str, arm: str, first: int) -> None:
        """Mirror all runs in `members`; hear the main run of the `first` seed for `rows`."""
        self._rows, self._members, self._group = rows, members, group
        self._arm, self._first = arm, first

    def __call__(self, spec: RunSpec, seed: int) -> FollowedRun:
        """Return who watches the run of `spec`."""
        is_main = spec.evaluation is not None and spec.label == self._arm
        rows = self._rows if is_main and seed == self._first else None
        return FollowedRun(rows, self._members, self._group, self._arm if is_main else "auxiliary")


class FollowedRun:
    """Follows one run: `harness.loop.Watch`, which never asks it to stop."""

    def __init__(self, rows: Rows | None, members: Mirror, group: str, label: str) -> None:
        self._rows, self._members = rows, members
        self._group, self._label = group, label

    def found(self, folder: Path) -> None:
        """Hear of a run that was finished before."""
        self._members.replay(folder, self._group, self._label)
        if self._rows is not None:
            self._rows.begin(read_json(folder / HEADER))
            self._replay(read_records(folder / RECORDS))

    def begin(self, header: dict[str, Any]) -> None:
        """Hear that the run starts, or resumes."""
        self._members.start(header, self._group, self._label)
        if self._rows is not None:
            self._rows.begin(header)

    def end(self, header: dict[str, Any]) -> None:
        """Hear how it ended."""
        if self._rows is not None:
            self._rows.flush()
        self._members.finish(header["status"], header["costs"])

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Hear what it had written before."""
        for record in records:
            self._members.log(record, patience=PATIENCE_SECONDS)
        if self._rows is not None:
            self._replay(records)

    def record(self, record: dict[str, Any]) -> None:
        """Hear of one record."""
        self._members.log(record)
        if self._rows is not None:
            self._rows.hear(record)

    def stop(self) -> bool:
        """Never ask the run to end."""
        return False

    def _replay(self, records: list[dict[str, Any]]) -> None:
        assert self._rows is not None
        for record in records:
            self._rows.hear(record)
        self._rows.flush()
