"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import SpecError

LOCK = "lock"


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder; SpecError where another process does. A killed process holds nothing.

    `doing` says in words what the other one does there, such as "scores into it".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpecError(f"{folder}: another process {doing}; wait for it") from None
        yield
