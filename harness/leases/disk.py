"""Leases as files of a shared disk, by the one step that every shared disk has: create or fail.

    leases/run-1f3a.../00000002      the second lease of a run, and who has it

A file that is created exclusively is created by one (NFS since version 3). Nothing is locked, and
nothing is renamed over another's file: the next lease is the next number, and the last is removed.
Its holder goes on writing to a file without a name, and finds that out. The price is a small file
for each run that was ever trained.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.leases.holder import Holder
from harness.leases.store import Seen

_SIZE = 1024  # of a file, padded: a sign of life overwrites it in place, in one piece


@dataclass
class _Ticket:
    """An open lease of ours."""

    path: Path
    file: int
    content: dict[str, Any]
    beat: int = 0

    def write(self, **more: Any) -> None:
        text = json.dumps({**self.content, "beat": self.beat, **more})
        os.pwrite(self.file, text.encode().ljust(_SIZE), 0)
        os.fsync(self.file)

    def is_ours(self) -> bool:
        """Tell whether our file has its name still, and no lease was taken after it."""
        try:
            here, ours = os.stat(self.path), os.fstat(self.file)
        except OSError:  # not there, or a stale handle of a file that another machine removed
            return False
        return os.path.samestat(here, ours) and _is_last(self.path)


@dataclass(frozen=True)
class DiskStore:
    """Leases in a folder."""

    folder: Path

    def look(self, key: str) -> Seen | None:
        """Return the last lease of a key; None where there has been none."""
        path = _last(self.folder / key)
        if path is None:
            return None
        # where it has gone meanwhile the next one is being taken: somebody's, and no sign of life
        return _read(key, path, None) or Seen(key, _number(path), os.urandom(8).hex(), False, None)

    def take(self, key: str, after: int, holder: Holder, about: str) -> _Ticket | None:
        """Return a ticket for lease number `after` + 1; None where somebody else has taken it."""
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{after + 1:08d}"
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return None
        ticket = _Ticket(path, file, {"holder": holder.plain, "about": about})
        try:
            ticket.write()
        except OSError:  # a full disk: nobody's lease rather than one that nobody can read
            path.unlink()
            os.close(file)
            raise
        for older in list(_leases(folder)):
            if _number(older) <= after:
                older.unlink(missing_ok=True)
        if not _is_last(path):  # we had seen an old listing, and its next number was free again
            path.unlink(missing_ok=True)
            os.close(file)
            return None
        return ticket

    def renew(self, ticket: _Ticket) -> bool:
        """Give a sign of life; false where the lease is another's, OSError where none got there."""
        if not ticket.is_ours():
            return False
        ticket.beat += 1
        ticket.write()
        return ticket.is_ours()

    def give_back(self, ticket: _Ticket) -> None:
        """Free a lease that is still ours."""
        with suppress(OSError):
            if ticket.is_ours():
                ticket.write(free=True)
        os.close(ticket.file)

    def held(self) -> list[Seen]:
        """Return all leases that nobody has given back."""
        if not self.folder.is_dir():
            return []
        now = _now(self.folder)
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        found = [_read(f.name, path, now) for f in folders if (path := _last(f)) is not None]
        return [seen for seen in found if seen is not None and not seen.is_free]


def _number(path: Path) -> int:
    return int(path.name)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}"


def _last(folder: Path) -> Path | None:
    """Return the last lease of a key, which may have gone meanwhile; None where there was none.

    What a listing lacks is looked for by name.
    """
    try:
        number = max((_number(path) for path in _leases(folder)), default=0)
    except FileNotFoundError:
        return None
    while _path(folder, number + 1).exists():
        number += 1
    return _path(folder, number) if number else None


def _is_last(path: Path) -> bool:
    """Tell whether no lease has been taken after this one."""
    return _last(path.parent) in (path, None)


def _leases(folder: Path) -> Iterator[Path]:
    # a shared disk calls a file that is removed while it is open .nfs and a number
    return (path for path in folder.iterdir() if path.name.isdigit())


def _read(key: str, path: Path, now: float | None) -> Seen | None:
    try:
        text, written = path.read_text(), path.stat().st_mtime
    except OSError:
        return None  # somebody has taken the next one just now
    try:
        content = json.loads(text)
    except ValueError:
        content = {}  # taken, and not yet written; or being written
    holder = Holder.read(content.get("holder"))
    free, about = bool(content.get("free")), str(content.get("about", ""))
    age = None if now is None else max(0.0, now - written)
    return Seen(key, _number(path), text, free, holder, about, age)


def _now(folder: Path) -> float:
    """Return the time by the clock of the disk, or ours where it cannot be written to."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
