"""An array of one dimension, written piece by piece into the bytes that `np.save` would give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

HEADER = 128  # bytes of it, whatever the length of the array: numpy leaves room for its digits
COPIED = 2**20  # numbers that are widened at once


class ArrayFile:
    """What is written of an array so far; `new_array` opens one."""

    def __init__(self, file: IO[bytes], dtype: DTypeLike) -> None:
        """Leave room for the header."""
        self._file, self.dtype, self.size = file, np.dtype(dtype), 0
        file.write(bytes(HEADER))

    def add(self, piece: NDArray[Any]) -> None:
        """Write a piece; one of a wider type makes all of the file wider."""
        if np.promote_types(piece.dtype, self.dtype) != self.dtype:
            self._widen(piece.dtype)
        self._file.write(np.ascontiguousarray(piece, self.dtype).view(np.uint8).data)
        self.size += len(piece)

    def finish(self) -> None:
        """Write the header, and put all on the disk."""
        header = BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        facts = {"descr": descr, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(header, facts)
        assert len(header.getvalue()) == HEADER
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Move numbers to their new places, the last first, so that none is overwritten unread."""
        old, self.dtype = self.dtype, dtype
        for end in range(self.size, 0, -COPIED):
            start = max(0, end - COPIED)
            self._file.seek(HEADER + start * old.itemsize)
            numbers = np.frombuffer(self._file.read((end - start) * old.itemsize), old)
            self._file.seek(HEADER + start * dtype.itemsize)
            self._file.write(numbers.astype(dtype).data)
        self._file.seek(0, os.SEEK_END)


@contextmanager
def new_array(path: Path, dtype: DTypeLike) -> Iterator[ArrayFile]:
    """Open a new file, complete and on the disk when the block ends; an OSError names it."""
    try:
        with path.open("x+b") as file:
            array = ArrayFile(file, dtype)
            yield array
            array.finish()
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk's has none
