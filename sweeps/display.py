"""A study at work, in a terminal: one bar for each arm; in a log, one line for each trial."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console

from harness.display import bars
from sweeps.study import load, rows
from sweeps.studyfile import Study
from sweeps.tables import num_ended
from sweeps.worker import Event


class StudyDisplay:
    """Shows the trials of a study as they go."""

    def __init__(self, console: Console, study: Study, storage: Any) -> None:
        """Begin with what has been done before."""
        self.console, self.study = console, study
        self.bars = bars(console)
        self.done, self.lines, total = {}, {}, study.asked.trials
        for arm in study.asked.arms:
            self.done[arm] = num_ended(rows(load(study, arm, storage)))
            self.lines[arm] = self.bars.add_task(
                arm, total=total, completed=self.done[arm], detail=""
            )

    def __enter__(self) -> Self:
        """Show the bars."""
        told = ", ".join(f"{arm} {n}/{self.study.asked.trials}" for arm, n in self.done.items())
        self.say(f"trials done: {told}")
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, style="dim", highlight=False, markup=False)

    def hear(self, event: Event) -> None:
        """Show what happened to a trial."""
        arm, name = event.arm, f"{event.arm} trial {event.number}"
        if event.kind == "seed":
            self.bars.update(self.lines[arm], detail=f"trial {event.number} {event.text}")
            return
        if event.kind in ("complete", "pruned", "failed"):
            self.done[arm] += 1
            self.bars.update(self.lines[arm], completed=self.done[arm])
            count = f"[{self.done[arm]}/{self.study.asked.trials}] "
            if event.kind == "failed" or not self.console.is_interactive:
                self.say(f"{count}{name} {event.kind} {event.text}".rstrip())
        elif event.kind == "reaped":
            self.say(f"{name}: its worker has died; queued again")
        elif event.kind == "lost":
            self.say(f"{name}: another process has ended it; this worker goes on")
        elif event.kind == "stopped":
            self.say(f"{name} stopped; it goes on with the next run")
