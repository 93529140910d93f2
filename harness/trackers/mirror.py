"""Every record to every tracker, in a thread each.

A tracker may fail, but it may never end, block or slow a run: the loop hands over a dict and trains
on. The price is that a failure is told a moment late, and that what a tracker has not taken within
`finish_seconds` of the end is missing there; `replay` mirrors such a run when it is asked for next.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.records import HEADER, RECORDS, read_records

Warn = Callable[[str], None]
LOG_WARNING: Warn = logging.getLogger("harness.trackers").warning

# 3,000 records gather while a nano model trains through the longest start that W&B can have.
_MAX_WAITING_RECORDS = 10_000


class Tracker(Protocol):
    """Where one run at a time is mirrored; any method may raise, which drops the tracker."""

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a run: `header` is run.json, `group` the ablation's name, `label` the arm's."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one object of records.jsonl."""

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Close the run with run.json's final `status` and `costs`."""

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
        """Show the report of ablation `group`; a tracker with no place for files does nothing.

        `report_id` is 16 hexadecimal digits that change with the files' content. No run is open.
        """


class Mirror:
    """Hands every record to every tracker; a tracker that fails is dropped with one warning."""

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        out: Path | None = None,
        warn: Warn = LOG_WARNING,
        *,
        start_seconds: float = 5.0,
        finish_seconds: float = 20.0,
        report_seconds: float = 60.0,
    ) -> None:
        """Mirror runs of `out`; a run can lose the first two limits to trackers, no more."""
        self._trackers = dict(trackers)
        self._out, self._warn = out, warn
        self._start_seconds, self._finish_seconds = start_seconds, finish_seconds
        self._report_seconds = report_seconds
        self._lanes: list[_Lane] = []
        self._run_id = ""

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a run; a resumed run logs its earlier records again, for a complete mirror."""
        self._open(list(self._trackers), header, group, label)

    def log(self, record: Mapping[str, Any], *, patience: float = 0.0) -> None:
        """Pass a record on; it must not change afterwards. Never waits, unless `patience` says."""
        for lane in self._lanes:
            lane.put("log", record, patience=patience)

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Close the run; a finished run is marked, so that it is mirrored once."""
        for lane in self._lanes:
            lane.put("finish", status, costs)
        for name in self._close(self._finish_seconds):
            if status == "finished" and self._out is not None:
                with suppress(OSError):  # no marker: mirrored twice, which loses nothing
                    _marker(self._out / "runs" / self._run_id, name).touch()

    def replay(self, run_dir: Path, group: str, label: str) -> None:
        """Mirror a run found on disk, unless it has been or is not finished."""
        header = json.loads((run_dir / HEADER).read_text())
        names = [name for name in self._trackers if not _marker(run_dir, name).exists()]
        if header["status"] != "finished" or not names:
            return
        self._open(names, header, group, label)
        for record in read_records(run_dir / RECORDS):
            self.log(record, patience=self._finish_seconds)
        self.finish(header["status"], header["costs"])

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> list[str]:
        """Hand a report to every tracker; return the names of those that took it."""
        self._lanes = [_Lane(name, t, self._warn) for name, t in self._trackers.items()]
        for lane in self._lanes:
            lane.put("report", group, report_id, files)
        return self._close(self._report_seconds)

    def _close(self, seconds: float) -> list[str]:
        """Wait for every lane's last call, drop the trackers that fail; return the others."""
        deadline = time.monotonic() + seconds
        for lane in self._lanes:
            left = max(0.0, deadline - time.monotonic())
            if not lane.broken and not lane.done.wait(left):
                lane.drop(f"did not finish within {seconds:g} s")
            if lane.broken:
                self._trackers.pop(lane.name, None)
        done = [lane.name for lane in self._lanes if not lane.broken]
        self._lanes = []
        return done

    def _open(self, names: list[str], header: Mapping[str, Any], group: str, label: str) -> None:
        self._run_id = header["run_id"]
        self._lanes = [_Lane(name, self._trackers[name], self._warn) for name in names]
        for lane in self._lanes:
            lane.put("start", header, group, label)
        # Most trackers are ready in 2 s. Waiting for them keeps their start out of the run's
        # clock; one that is not is left to start while the run goes on.
        deadline = time.monotonic() + self._start_seconds
        for lane in self._lanes:
            lane.started.wait(max(0.0, deadline - time.monotonic()))


class _Lane:
    """One tracker, its queue and the daemon thread that empties it, for one run."""

    def __init__(self, name: str, tracker: Tracker, warn: Warn) -> None:
        self.name, self.broken = name, False
        self.started, self.done = threading.Event(), threading.Event()
        self._tracker, self._warn = tracker, warn
        self._lock = threading.Lock()
        self._calls: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue(_MAX_WAITING_RECORDS)
        threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True).start()

    def put(self, method: str, *args: Any, patience: float = 0.0) -> None:
        if self.broken:
            return
        try:
            self._calls.put(
                (method, partial(getattr(self._tracker, method), *args)), True, patience
            )
        except queue.Full:
            self.drop(f"fell {_MAX_WAITING_RECORDS:,} records behind")

    def drop(self, reason: str) -> None:
        with self._lock:
            first, self.broken = not self.broken, True
        if first:
            self._warn(f"tracker {self.name} dropped: {reason}; the run and its records go on")

    def _work(self) -> None:
        method = ""
        while method not in ("finish", "report") and not self.broken:
            method, call = self._calls.get()
            try:
                call()
            except (Exception, SystemExit) as error:  # W&B exits where its service has died
                self.drop(f"{type(error).__name__}: {first_line(error)}")
            self.started.set()
        self.done.set()


def _marker(run_dir: Path, name: str) -> Path:
    return run_dir / f".mirrored-{name}"


def first_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    return next(iter(str(error).splitlines()), "no message")[:160]
