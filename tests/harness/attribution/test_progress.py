"""Bars, and silence."""

from __future__ import annotations

import io

from rich.console import Console

from harness.attribution import progress


def test_a_stage_is_shown_in_a_terminal_and_nowhere_else() -> None:
    for terminal in (True, False):
        told = io.StringIO()
        console = Console(file=told, force_terminal=terminal, force_interactive=terminal, width=80)
        with progress.on(console).track(3, "covariances") as advance:
            advance(2)
            advance(1)
        assert ("covariances" in told.getvalue()) is terminal
        assert ("3/3" in told.getvalue()) is terminal
    with progress.SILENT.track(3, "covariances") as advance:
        advance(3)
