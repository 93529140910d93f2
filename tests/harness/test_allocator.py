"""Memory that is freed is kept for the next step: counted in page faults."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness import allocator

SCRIPT = """
import json, resource
import numpy as np
from harness import allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(48 * 2**20, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = min(faults() for _ in range(4))
allocator.keep_memory()
kept = min(faults() for _ in range(4))
allocator.give_back()
print(json.dumps([usual, kept, faults()]))
"""


@pytest.mark.skipif(allocator._glibc() is None, reason="of glibc's malloc alone")
def test_a_block_that_was_freed_costs_no_page() -> None:
    """48 MB are 12,288 pages, or 24 huge ones; once kept, they are not asked for again."""
    command = [sys.executable, "-c", SCRIPT]
    printed = subprocess.run(command, capture_output=True, check=True).stdout

    usual, kept, given_back = json.loads(printed)

    assert usual > 15
    assert kept < 5
    assert given_back > 15


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc nothing is called."""
    monkeypatch.setattr(allocator, "_glibc", lambda: None)

    allocator.keep_memory()
    allocator.give_back()
