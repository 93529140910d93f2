"""Follow a running ablation: write its report again whenever its records have grown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from reports.build import write
from reports.equal_compute import is_waiting
from reports.load import MAIN, Evidence, load
from reports.measures import UNFINISHED


def watch(out: Path, name: str | None, every: float) -> Iterator[str]:
    """Yield a line for each report that is written, until every evaluated run has ended.

    `every` is the number of seconds between two looks; a look that finds nothing new writes
    nothing. A folder without an ablation is a SpecError, as for any report.
    """
    seen: object = None
    while True:
        evidence = load(out, name)
        main = evidence.runs[evidence.runs["kind"] == MAIN]
        waiting = main["status"].isin(UNFINISHED)
        state = _state(evidence)
        if state != seen:
            seen = state
            path = write(evidence).html
            done = f"{int((main['status'] == 'finished').sum())} of {len(main)} runs finished"
            yield f"{time.strftime('%H:%M:%S')} {done}: {path}"
        if not waiting.any() and not is_waiting(evidence):
            return
        time.sleep(every)


def _state(evidence: Evidence) -> tuple[object, ...]:
    """Return what changes whenever there is something new to show."""
    sizes = len(evidence.evals), len(evidence.steps), len(evidence.notes)
    return *sizes, *evidence.runs["status"]
