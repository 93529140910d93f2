"""A package with trackers of its own, installed as far as Python can tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = """
from tests.tracked_run import Listener

opened = []


def open_memory(out, warn):
    opened.append((out, warn, Listener()))
    return opened[-1][2]


def open_nothing(out, warn):
    return object()


def open_raising(out, warn):
    raise RuntimeError("no license\\nat all")


def open_failing(out, warn):
    class Failing(Listener):
        def report(self, *args):
            raise OSError("disk on fire")

    return Failing()
"""
POINTS = """
[steelyard.trackers]
memory = third_party_trackers:open_memory
nothing = third_party_trackers:open_nothing
raising = third_party_trackers:open_raising
failing = third_party_trackers:open_failing
absent = third_party_trackers:open_absent
broken = third_party_trackers.none:open
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install the package; yield the name of its module, which is not imported yet."""
    site = tmp_path / "site"
    info = site / "third_party-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    (site / "third_party_trackers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(site)
    yield "third_party_trackers"
    sys.modules.pop("third_party_trackers", None)
