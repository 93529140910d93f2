"""An array of one dimension, written piece by piece into the bytes that `np.save` would give."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

HEADER = 128  # bytes of it, whatever the length of the array: numpy leaves room for its digits
COPIED = 2**20  # numbers that are widened at once


class ArrayFile:
    """A new file, complete and on the disk when its block ends."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        """Open it; FileExistsError where it is there."""
        self.path, self.dtype, self.size = path, np.dtype(dtype), 0
        self._file = path.open("x+b")
        self._file.write(bytes(HEADER))

    def add(self, piece: NDArray[Any]) -> None:
        """Write a piece; one of a wider type makes all of the file wider."""
        if np.promote_types(piece.dtype, self.dtype) != self.dtype:
            self._widen(piece.dtype)
        self._file.write(np.ascontiguousarray(piece, self.dtype).view(np.uint8).data)
        self.size += len(piece)

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

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Write the header, and put all on the disk, unless something has failed."""
        with self._file as file:
            if kind is None:
                file.seek(0)
                file.write(_header(self.dtype, self.size))
                file.flush()
                os.fsync(file.fileno())


def _header(dtype: np.dtype[Any], size: int) -> bytes:
    header = BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(header, facts)
    assert len(header.getvalue()) == HEADER
    return header.getvalue()
