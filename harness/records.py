"""The truth that reports read: one JSON object a line, written as it happens.

Kinds: `step` (loss, rate, weights, rows and losses per domain), `eval` (one line per split and
domain), `documents` (the last evaluation once more, by document: numbers, nats and bytes of the
targets that were evaluated), `probe` (the loss on the probe set at the end, one line per domain),
`note` (a method's own numbers). Domains are in the order of run.json's `domains` and
`probe_domains`. Wall time is only ever in the key `seconds`; everything else is equal, byte for
byte, in a run that was killed and resumed. Readers skip a torn last line, since a process that is
killed while writing leaves one; resuming cuts the file back to the last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.files import whole_file

SCHEMA = 1
HEADER, RECORDS, CHECKPOINT = "run.json", "records.jsonl", "checkpoint.pt"


class RecordWriter:
    """Appends records to a file, a line at a time."""

    def __init__(self, path: Path, position: int = 0) -> None:
        """Open `path` and drop what follows byte `position`; ValueError where it is shorter."""
        if position and (not path.exists() or path.stat().st_size < position):
            lost = f"{path} ends before byte {position}, where its checkpoint goes on"
            raise ValueError(f"{lost}; delete {path.parent} to train the run again")
        self._file = path.open("ab")
        self._file.truncate(position)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; ValueError where a number in it is NaN or infinite."""
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Return the size in bytes of what is safely on the disk."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Put everything on the disk and close the file."""
        os.fsync(self._file.fileno())
        self._file.close()


class Unwritten(RecordWriter):
    """The records of a rank that leaves them to the first: it writes nothing."""

    def __init__(self) -> None:
        """Open no file."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Leave a record to the first rank."""

    def position(self) -> int:
        """Return 0: there is no file."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def own_copy(path: Path) -> None:
    """Put a copy in the place of a file, if there is one; who has it open writes to no file."""
    if path.exists():
        with whole_file(path) as file, path.open("rb") as before:
            shutil.copyfileobj(before, file)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return a file's records in order; [] where there is none yet.

    A torn last line is left out, a torn line elsewhere is a ValueError.
    """
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return []
    try:
        # one call for all lines, and pydantic's parser rather than json's: four times as fast
        return list(from_json(b"[" + b",".join(lines) + b"]", allow_inf_nan=False))
    except ValueError:
        return _read_lines(lines)


def _read_lines(lines: list[bytes]) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"line {number} of {RECORDS} is not JSON") from error
    return records


def tuning_losses(
    records: Iterable[Mapping[str, Any]], domains: tuple[str, ...]
) -> dict[int, float]:
    """Return the tuning loss over `domains` at each evaluated step, nats per token."""
    sums: dict[int, tuple[float, int]] = {}
    for record in records:
        is_ours = record["kind"] == "eval" and record["split"] == "tuning"
        if is_ours and record["domain"] in domains:
            nats, count = sums.get(record["step"], (0.0, 0))
            size = record["num_tokens"]
            sums[record["step"]] = nats + record["nats_per_token"] * size, count + size
    return {step: nats / count for step, (nats, count) in sums.items()}


def best_step(losses: Mapping[int, float]) -> int | None:
    """Return the step of lowest loss, the earliest of several; None where there is none."""
    return min(losses, key=lambda step: (losses[step], step)) if losses else None
