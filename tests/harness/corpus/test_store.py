"""A corpus on the disk is read row by row, and takes no more memory than that."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.corpus import TokenStore


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_system_does_not_read_ahead_of_rows(small: TokenStore) -> None:
    """Linux marks such a mapping of a file with the flag `rr`."""
    name = str(small.folder.resolve())
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = {
        after.split("\n")[0]
        for before, after in pairwise(mappings)
        if name in before and "tokens" in before
    }

    assert np.asarray(small.stream(small.trained[0], "train")).size
    assert flags
    assert all(" rr " in found for found in flags)
