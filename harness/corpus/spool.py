"""Texts on the disk while a corpus is built, so that its size does not depend on memory.

A spool is a file without a name beside the corpus that is built: it is gone when its process is,
however that ends. A text is read again wherever it is needed, a handful of times. The price is that
much more of the disk, and of a source under a cap also what was let go after it had been kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from harness.corpus.documents import Document


class SpoolError(OSError):
    """The disk does not take or give a text; it is not the source that fails."""


class Spool:
    """Texts one after another, added at the end; there is none after its block."""

    def __init__(self, folder: Path) -> None:
        """Open an empty file in `folder`, on the disk that the corpus will be on."""
        self.folder, self._size = folder, 0
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the disk back."""
        self._file.close()

    def kept(self, document: Document) -> Document:
        """Return the document, whose text is now here and not in memory."""
        left, start = memoryview(document.text.encode()), self._size
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except OSError as error:
            raise SpoolError(error.errno, error.strerror, str(self.folder)) from error
        self._size += document.num_bytes
        return Spooled(document, self, start)

    def read(self, start: int, size: int) -> str:
        """Return the text of `size` bytes at `start`."""
        parts = []
        while size:
            parts.append(os.pread(self._file.fileno(), size, start))
            if not parts[-1]:
                raise SpoolError(None, "a text that was put aside is not there", str(self.folder))
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return b"".join(parts).decode()


class Spooled(Document):
    """A document that reads its text when it is asked for."""

    __slots__ = ("_spool", "_start")
    _spool: Spool
    _start: int

    def __init__(self, document: Document, spool: Spool, start: int) -> None:
        """Take over what is known of `document`, whose text begins at `start`."""
        for name in ("name", "group", "split", "prompt_chars", "num_bytes", "sha256"):
            object.__setattr__(self, name, getattr(document, name))
        object.__setattr__(self, "_spool", spool)
        object.__setattr__(self, "_start", start)

    @property
    def text(self) -> str:
        """Return the text, read anew."""
        return self._spool.read(self._start, self.num_bytes)
