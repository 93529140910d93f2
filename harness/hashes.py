"""The SHA-256 of files, computed once: what stands for text and weights in ids.

A start has to know whether files are still the same, and reading gigabytes to find out would take
longer than what follows. So the hash of a large file is kept in the output folder under its path,
size and time of change, as build tools do; a file that was changed within the last seconds is not
kept, because a second change might leave no trace.
"""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.files import read_json, write_json

FILE = "file_hashes.json"
LARGE_BYTES = 1 << 20  # smaller files are hashed sooner than looked up
SETTLED_SECONDS = 2.0  # some file systems count time in steps of two seconds
CHUNK = 1 << 20


class ContentHashes:
    """Hashes of files; those of large ones are remembered in `folder`, if there is one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = None if folder is None else folder / FILE
        self._known: dict[str, Any] | None = None
        self._changed = False

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes in hexadecimal; OSError where it is unreadable."""
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        key = str(path.resolve())
        if state.st_size < LARGE_BYTES:
            return _sha256(path)
        entry = self._entries().get(key)
        if entry is not None and entry[:2] == stamp:
            with path.open("rb"):  # a file that may no longer be read must not be found later
                return str(entry[2])
        digest = _sha256(path)
        if time.time() - state.st_mtime > SETTLED_SECONDS:
            self._entries()[key] = [*stamp, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Write down what is new. A folder that cannot be written to costs time alone."""
        if self._changed and self.path is not None:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self._entries())
            self._changed = False

    def _entries(self) -> dict[str, Any]:
        if self._known is None:
            self._known = {}
            if self.path is not None:
                with suppress(OSError):
                    self._known = read_json(self.path) or {}
        return self._known


def _sha256(path: Path) -> str:
    whole = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
    return whole.hexdigest()
