"""`steelyard run` and `work`: what the exit code says of what was written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.ablate import Summary
from harness.cli import find_method
from harness.commands import running


@pytest.mark.parametrize(
    ("summary", "code", "reported"),
    [
        (Summary(2, 0, False), 0, True),
        (Summary(1, 1, False), 1, True),
        (Summary(2, 0, False, is_behind=True), 1, False),  # the report would lack what has ended
        (Summary(2, 0, True), 130, False),
    ],
)
@pytest.mark.parametrize("command", ["run", "work"])
def test_nothing_is_a_success_that_the_ablations_file_does_not_know(
    command: str, summary: Summary, code: int, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(running, "_load", lambda *_: SimpleNamespace(name="tiny"))
    monkeypatch.setattr(running, "_carry_out", lambda *_: summary)
    for name in ("report", "_report_once"):
        monkeypatch.setattr(running, name, lambda *_: told.append("report"))
    console: Any = SimpleNamespace(print=lambda *_, **__: None)
    asked: Any = SimpleNamespace(launcher="pool", detach=False, jobs=1, leases=None, grace=60.0)
    asked.out, asked.settled, asked.no_report = "out", None, False

    assert getattr(running, command)(asked, [], [], console, find_method) == code
    assert bool(told) == reported
