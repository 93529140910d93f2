"""Folders of made-up ablations, written once for all tests that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports.synthetic import write_out

LOST = {
    ("influence", 3): (
        "failed",
        "ValueError: <script>alert(1)</script> | `loss` is nan at step 30",
    ),
    ("half", 7): ("interrupted", None),
}


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("three"), num_seeds=3)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_out(tmp_path_factory.mktemp("eight"), num_seeds=8)


@pytest.fixture(scope="session")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seeds, one run failed with a hostile reason and one interrupted."""
    return write_out(tmp_path_factory.mktemp("lossy"), num_seeds=8, broken=LOST)
