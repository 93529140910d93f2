"""A grid in a terminal: one bar for the whole, one line for each run that is training now.

Where standard output is no terminal (a log, CI), one plain line for each cell that ends.
"""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness import labor, worker
from harness.data_warnings import DataWarning


def bars(console: Console) -> Progress:
    """Return bars with a count, a `detail` and the times, for a terminal only; gone when done."""
    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )


class TerminalDisplay(labor.Display):
    """Shows a grid on a rich console."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self.console = console
        self.bars = bars(console)
        self.whole: TaskID | None = None
        self.lines: dict[tuple[str, int], tuple[str, TaskID]] = {}
        self.done = self.total = 0

    def say(self, text: str) -> None:
        """Print a line about the set-up."""
        self.console.print(text, style="dim", highlight=False, markup=False)

    def warn(self, warnings: list[DataWarning]) -> None:
        """Print loud warnings in one panel, the others as a line each."""
        loud = [warning.text for warning in warnings if warning.loud]
        if loud:
            title = "WARNING: rebalancing cannot work on these domains"
            width = min(self.console.width, 80)
            text = Text("\n\n".join(loud))  # names are anyone's text, and no markup
            self.console.print(Panel(text, title=title, style="bold yellow", width=width))
        for warning in warnings:
            if not warning.loud:
                self.say(f"note: {warning.text}")

    def open(self, total: int, found: int, what: str = "arms x seeds") -> None:
        """Show the bar of the whole grid."""
        self.total, self.done = total, found
        told = f"{total} runs: {what}"
        self.say(f"{told}, {found} found finished" if found else told)
        if found < total:
            self.bars.start()
            self.whole = self.bars.add_task("all", total=total, completed=found, detail="")

    def progress(self, progress: worker.Progress) -> None:
        """Move the line of a run; a plan's next run takes the place of its last."""
        key, name = (progress.label, progress.seed), f"{progress.label} seed {progress.seed}"
        role = "" if progress.role == "main" else f" ({progress.role})"
        if key not in self.lines or self.lines[key][0] != progress.role:
            self._drop(key)
            line = self.bars.add_task(name + role, total=progress.num_steps, detail="")
            self.lines[key] = progress.role, line
        detail = f"loss {progress.loss:.3f}"
        self.bars.update(self.lines[key][1], completed=progress.step, detail=detail)

    def outcome(self, task: worker.Task, outcome: worker.Outcome) -> None:
        """Print how a cell ended; a failure says why."""
        self._drop((task.label, task.seed))
        if self.whole is not None and outcome.status != "interrupted":
            self.bars.advance(self.whole)
        self.done += outcome.status == "finished"
        name = f"{task.label} seed {task.seed}"
        if outcome.status == "failed":
            self.failed(name, outcome.reason or "unknown")
        elif outcome.status == "finished" and not self.console.is_interactive:
            self.say(f"[{self.done}/{self.total}] {name} finished ({outcome.run_id})")

    def failed(self, name: str, reason: str) -> None:
        """Print a failure as one line; a reason is anyone's text, and no markup."""
        self.console.print(Text.assemble(("failed", "red"), f" {name}: {reason}"), soft_wrap=True)

    def close(self) -> None:
        """Take the bars away."""
        self.bars.stop()

    def _drop(self, key: tuple[str, int]) -> None:
        if key in self.lines:
            self.bars.remove_task(self.lines.pop(key)[1])
