"""Files that appear whole or not at all, and outlive a lost machine once they have appeared."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.errors import SpecError


def part_of(path: Path) -> Path:
    """Return a name beside `path` that nobody else has; of two machines, pids may be equal."""
    return path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; it takes its name only after everything is on the disk."""
    part = part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with whole_file(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:  # never ours: a file appears whole; a copy may have been cut short
        lost = f"{path}: damaged: {error}"
        raise SpecError(f"{lost}; delete it, and the next run makes it anew") from None
