"""A report is shown once for each content, and never ends the command that wrote it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.trackers import Mirror, publish_report
from tests.tracked_run import Listener


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Write a report as reports/build.py does, and return its files."""
    paths = [tmp_path / name for name in ("report.html", "report.md", "results.csv")]
    for path in paths:
        path.write_text(f"text of {path.name}")
    return paths


def test_a_report_is_published_once_for_each_content(
    tmp_path: Path, files: list[Path], third_party: str
) -> None:
    def publish() -> list[tuple[str, str, list[str]]]:
        publish_report(tmp_path, "demo", files, ("memory",))
        opened = sys.modules[third_party].opened
        return [call[1:] for _, _, tracker in opened for call in tracker.calls]

    first = publish()
    assert first == [("demo", first[0][1], [path.name for path in files])]
    assert len(first[0][1]) == 16
    files[0].write_text("the same at another time")
    assert publish() == first
    files[1].write_text("another number")
    both = publish()
    assert len(both) == 2
    assert both[0][1] != both[1][1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("failing", "tracker failing dropped: OSError: disk on fire"),
        ("raising", "the report is not published: trackers: 'raising' of third-party 1.2"),
        ("gone", "the report is not published: trackers: 'gone' is unknown"),
    ],
)
def test_what_fails_is_told_and_tried_again(
    tmp_path: Path, files: list[Path], third_party: str, name: str, told: str
) -> None:
    warnings: list[str] = []
    for _ in range(2):
        publish_report(tmp_path, "demo", files, (name,), warn=warnings.append)

    assert len(warnings) == 2
    assert warnings[0].startswith(told)
    assert not list(tmp_path.glob(".published-*"))


def test_a_mode_without_wandb_is_said_to_be_ignored(tmp_path: Path, files: list[Path]) -> None:
    warnings: list[str] = []
    publish_report(tmp_path, "demo", files, (), "online", warnings.append)
    publish_report(tmp_path, "demo", files, (), None, warnings.append)

    assert warnings == ["--wandb-mode is ignored: W&B is not among the trackers of 'demo'"]


def test_a_tracker_that_hangs_costs_the_limit_and_no_more(files: list[Path]) -> None:
    release, warnings = threading.Event(), list[str]()

    class Hanging(Listener):
        def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
            release.wait()

    trackers = {"slow": Hanging(), "quick": Listener()}
    mirror = Mirror(trackers, warn=warnings.append, report_seconds=0.3)
    began = time.monotonic()
    took = mirror.report("demo", "0" * 16, files)
    lost = time.monotonic() - began
    release.set()

    assert took == ["quick"]
    assert 0.3 <= lost < 1.5
    assert len(warnings) == 1
    assert "did not finish within 0.3 s" in warnings[0]
