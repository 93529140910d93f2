"""An array that is written in pieces is the file that numpy would have saved."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus import array_file
from harness.corpus.array_file import new_array

ROOT = Path(__file__).parents[3]
PIECES = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=9), max_size=6)


def saved(array: Any) -> bytes:
    """Return the bytes of np.save."""
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.bool_])
@pytest.mark.parametrize("sizes", [(), (0,), (3,), (1, 0, 5)])
def test_pieces_are_one_array(tmp_path: Path, dtype: Any, sizes: tuple[int, ...]) -> None:
    """Of any type, also of no number at all."""
    pieces = [np.arange(size).astype(dtype) for size in sizes]
    with new_array(tmp_path / "a.npy", dtype) as file:
        for piece in pieces:
            file.add(piece)

    whole = np.concatenate([np.zeros(0, dtype), *pieces])
    assert (tmp_path / "a.npy").read_bytes() == saved(whole)
    assert file.size == len(whole)


@given(numbers=PIECES, copied=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_a_wider_piece_makes_all_of_it_wider(
    numbers: list[list[int]], copied: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever has been written, and however few numbers are moved at once."""
    path = tmp_path_factory.mktemp("array") / "a.npy"
    pieces = [
        np.array(some, np.uint32 if max(some, default=0) > 65_535 else np.uint16)
        for some in numbers
    ]
    with pytest.MonkeyPatch.context() as patch, new_array(path, np.uint16) as file:
        patch.setattr(array_file, "COPIED", copied)
        for piece in pieces:
            file.add(piece)

    assert path.read_bytes() == saved(np.concatenate([np.zeros(0, np.uint16), *pieces]))


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """A folder that is built is empty."""
    (tmp_path / "a.npy").touch()

    with (
        pytest.raises(FileExistsError, match=r"a\.npy"),
        new_array(tmp_path / "a.npy", np.uint16),
    ):
        pass


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from harness.corpus.array_file import new_array

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with new_array(Path(sys.argv[1]), np.uint16) as file:
        file.add(np.zeros(int(sys.argv[2]), np.uint16))
except OSError as error:
    print(error.filename)
"""


@pytest.mark.parametrize("count", [3, 100_000])
def test_a_disk_that_takes_no_more_is_told_with_the_files_name(tmp_path: Path, count: int) -> None:
    """At the end, or in between: the system's error names nothing."""
    path = str(tmp_path / "a.npy")
    command = [sys.executable, "-c", FULL, path, str(count)]

    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    assert told.stdout.strip() == path
