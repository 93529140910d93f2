"""How far a stage has come: one bar per stage in a terminal, and nothing where there is none.

A stage says how many rows or modules there are and then how many more are done; it knows neither
rich nor a terminal, so that tests and notebooks run it in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def track(self, total: int, label: str) -> AbstractContextManager[Advance]:
        """Open a bar of `total` steps; call what it yields with the steps newly done."""


class _Silent:
    """No bars."""

    @contextmanager
    def track(self, total: int, label: str) -> Iterator[Advance]:
        """Yield a function that does nothing."""
        yield lambda _: None


class _Bars:
    """A bar on a rich console, gone when its stage is over."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self.console = console

    @contextmanager
    def track(self, total: int, label: str) -> Iterator[Advance]:
        """Show a bar until the block ends."""
        from harness.display import bars

        with bars(self.console) as shown:
            task = shown.add_task(label, total=total, detail="")
            yield lambda steps: shown.advance(task, steps)


SILENT: Progress = _Silent()


def on(console: Console) -> Progress:
    """Return bars on a rich console; a log or a pipe gets none."""
    return _Bars(console)
