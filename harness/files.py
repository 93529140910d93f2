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
    """Return the JSON value in `path`, one of ours, or None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:  # never ours: a file appears whole; a copy may have been cut short
        lost = f"{path}: damaged: {error}"
        raise SpecError(f"{lost}; delete it, and the next run makes it anew") from None


def read_given_json(path: Path, key: str) -> Any:
    """Return the JSON value in a file that `key` of a spec leads to, or None where there is none.

    It is the user's: it is never to be deleted, so the SpecError says what is wrong with it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"{key}: {path} cannot be read: {reason}; look after it") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{key}: {path} is no JSON: {error}; mend it, or copy it again") from None
