"""Scores on their way to disk: a chunk of rows at a time, and never lost or trusted when torn.

An array is mapped and written in place. After a chunk's numbers are on the disk, a line with their
digest is appended to done.jsonl; whoever comes back after SIGKILL believes a line only if the
digest of what lies there agrees, and computes every other chunk again. A parquet part takes its
name when it is whole, so the files themselves tell what is done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.attribution.store import PARTS, SCORES, SELF, need_pyarrow
from harness.files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

DONE = "done.jsonl"
Arrays = Mapping[str, "NDArray[np.float32]"]  # file name -> the rows of one chunk


class Writer(Protocol):
    """Where chunks of rows go."""

    def done(self) -> set[int]:
        """Return the chunks that are on disk and whole."""

    def write(self, chunk: int, first: int, values: Arrays) -> None:
        """Keep the rows from `first` on; when this returns, they outlive a kill."""

    def clear(self) -> None:
        """Forget everything."""


@dataclass
class NpyWriter:
    """Arrays [N, ...] float32, mapped."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    chunk_rows: int

    def __post_init__(self) -> None:
        """Open the arrays that are there; if they do not fit, make new ones and forget the rest."""
        try:
            self._open("r+")
        except (OSError, ValueError):
            (self.folder / DONE).unlink(missing_ok=True)
            self._open("w+")
        self._lines: dict[int, str] = {}

    def _open(self, mode: str) -> None:
        self.arrays = {}
        for name, shape in self.shapes.items():
            made: Any = {"dtype": np.float32, "shape": shape} if mode == "w+" else {}
            array = np.lib.format.open_memmap(self.folder / name, mode=mode, **made)
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"{name} is {array.shape}")
            self.arrays[name] = array

    def done(self) -> set[int]:
        """Return the chunks whose bytes are those that were written."""
        self._lines = {}
        for line in _whole_lines(self.folder / DONE):
            chunk = line["chunk"]
            if line["digest"] == self._digest(chunk):
                self._lines[chunk] = line["digest"]
        with whole_file(self.folder / DONE) as file:  # a torn last line must not stay in the way
            for chunk, digest in self._lines.items():
                file.write(_line(chunk, digest))
        return set(self._lines)

    def write(self, chunk: int, first: int, values: Arrays) -> None:
        """Write the numbers, wait for the disk, then say so."""
        for name, array in values.items():
            self.arrays[name][first : first + len(array)] = array
            self.arrays[name].flush()
        with (self.folder / DONE).open("ab") as file:
            file.write(_line(chunk, self._digest(chunk)))
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget what is done; the numbers will be written over."""
        (self.folder / DONE).unlink(missing_ok=True)

    def _digest(self, chunk: int) -> str:
        rows = slice(chunk * self.chunk_rows, (chunk + 1) * self.chunk_rows)
        whole = blake2b(digest_size=8)
        for name in sorted(self.arrays):
            whole.update(np.ascontiguousarray(self.arrays[name][rows]).tobytes())
        return whole.hexdigest()


@dataclass
class ParquetWriter:
    """One file per chunk: `row`, the place in the pool, and a column q0, q1, ... per query."""

    folder: Path

    def __post_init__(self) -> None:
        """Make the folder; SpecError where pyarrow is not installed."""
        need_pyarrow()
        (self.folder / PARTS).mkdir(exist_ok=True)

    def done(self) -> set[int]:
        """Return the chunks that have a file."""
        return {int(path.stem) for path in (self.folder / PARTS).glob("*.parquet")}

    def write(self, chunk: int, first: int, values: Arrays) -> None:
        """Write a part, whole or not at all."""
        import pandas as pd

        scores = values[SCORES]
        columns: dict[str, Any] = {"row": np.arange(first, first + len(scores))}
        columns |= {f"q{q}": scores[:, q] for q in range(scores.shape[1])}
        if SELF in values:
            columns["self"] = values[SELF]
        with whole_file(self.folder / PARTS / f"{chunk:06d}.parquet") as file:
            pd.DataFrame(columns).to_parquet(file, index=False, engine="pyarrow")

    def clear(self) -> None:
        """Delete every part."""
        shutil.rmtree(self.folder / PARTS)
        (self.folder / PARTS).mkdir()


def _line(chunk: int, digest: str) -> bytes:
    return (json.dumps({"chunk": chunk, "digest": digest}) + "\n").encode()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole; the last may have been cut."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
