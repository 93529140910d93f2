"""Texts on the disk while a corpus is built, so that its size does not depend on memory.

A spool is a file without a name beside the corpus that is built: it is gone when its process is,
however that ends. What stands in it is read again wherever it is needed, a handful of times. The
price is the disk: the text once more, two thirds of it again while near-duplicates are looked for,
and of a source under a cap also what came in and had to go when something better came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from harness.corpus.documents import Document


class SpoolError(OSError):
    """The disk does not take or give what is put aside; it is not the source that fails."""


class Spool:
    """Bytes one after another, added at the end; there are none after its block."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open an empty file in `folder`, on the disk that the corpus will be on."""
        self.folder, self.size = folder, 0
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the disk back."""
        self._file.close()

    def add(self, raw: bytes) -> int:
        """Put bytes at the end, and return where they start."""
        left, start = memoryview(raw), self.size
        with self._told():
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        self.size += len(raw)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on."""
        parts = []
        while size:
            with self._told():
                parts.append(os.pread(self._file.fileno(), size, start))
            if not parts[-1]:
                raise SpoolError(None, "what was put aside is not there", str(self.folder))
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return b"".join(parts)

    def rewind(self, size: int) -> None:
        """Forget what came after the first `size` bytes."""
        with self._told():
            os.ftruncate(self._file.fileno(), size)
            os.lseek(self._file.fileno(), size, os.SEEK_SET)
        self.size = size

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolError(error.errno, error.strerror, str(self.folder)) from error

    def put(self, document: Document) -> Document:
        """Return the document, whose text is now here and not in memory."""
        return Spooled(document, self, self.add(document.text.encode()))


class Spooled(Document):
    """A document that reads its text when it is asked for; equal to itself alone."""

    __slots__ = ("_spool", "_start")
    _spool: Spool
    _start: int

    def __init__(self, document: Document, spool: Spool, start: int) -> None:
        """Take over what is known of `document`, whose text begins at `start`."""
        for name in ("name", "group", "split", "prompt_chars", "num_bytes", "sha256"):
            object.__setattr__(self, name, getattr(document, name))
        object.__setattr__(self, "_spool", spool)
        object.__setattr__(self, "_start", start)

    # a comparison would read both texts
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        """Name it."""
        return f"Spooled({self.group!r}, {self.name!r}, {self.num_bytes} bytes)"

    @property
    def text(self) -> str:
        """Return the text, read anew."""
        return self._spool.read(self._start, self.num_bytes).decode()
