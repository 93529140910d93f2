"""A first look at files: which format, which columns, how much text. Reads a little, keeps nothing.

What it guesses is written into a spec for a person to check, so it looks at the first rows of one
file and at the sizes of all; the price is that row 10,000 may look different.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from harness.corpus.sources.arrow import MISSING
from harness.corpus.sources.formats import format_of
from harness.corpus.sources.streams import (
    COMPRESSED,
    MAX_LINE_CHARACTERS,
    BadFileError,
    open_bytes,
)
from harness.errors import SpecError

NUM_ROWS = 20
NUM_BYTES = 200_000  # of a file, for its first look, and to the end of the line there
MANY_FILES = 12  # each can be a document; fewer cannot fill four splits evenly
_GROWTH = 3  # text by its packed size, roughly: gzip, zstd and parquet on prose
_HEADING = re.compile(r"^ = [^=\n]+ = *$", re.MULTILINE)
_BLANK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What the first rows of a domain's files look like."""

    format: str
    known: bool
    """The format follows from the files' names."""
    num_bytes: int
    """Of all files, unpacked, roughly."""
    columns: dict[str, int] = field(default_factory=dict)
    """Column to mean length in characters, where it holds text."""
    others: tuple[str, ...] = ()
    """Columns that hold no text."""
    separator: str | None = None
    """Text: a regular expression that cuts one file into documents, where one is needed."""
    num_pieces: int = 0
    """Text: about how many documents the separator makes of it all."""
    encoding: str = "utf-8"


def look(paths: list[Path]) -> Glance:
    """Return what the files hold; SpecError names the file that cannot be a domain's text."""
    sizes = {path: _size(path) for path in paths}
    first = max(paths, key=lambda path: sizes[path])
    if not sizes[first]:
        raise SpecError(f"{first}: is empty; give a file with text")
    kind = format_of(first)
    grown = sum(size * (_GROWTH if _is_packed(path) else 1) for path, size in sizes.items())
    shared: dict[str, Any] = {
        "format": kind or "text", "known": kind is not None, "num_bytes": grown
    }  # fmt: skip
    if kind == "parquet":
        return Glance(**shared, **_columns(list(_parquet_rows(first))))
    head, shared["encoding"] = _head(first, is_table=kind in ("jsonl", "csv", "tsv"))
    if kind == "jsonl":
        return Glance(**shared, **_columns(list(_json_rows(first, head))))
    if kind in ("csv", "tsv"):
        rows = list(_table_rows(first, head, "\t" if kind == "tsv" else ","))
        return Glance(**shared, **_columns(rows))
    if len(paths) >= MANY_FILES:
        return Glance(**shared)
    separator = r"\n(?= = [^=\n]+ = *\n)" if len(_HEADING.findall(head)) > 2 else _BLANK.pattern
    read = len(re.split(separator, head))
    pieces = round(read * max(1.0, grown / max(1, len(head))))  # as if the rest were like it
    return Glance(**shared, separator=separator, num_pieces=pieces)


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in (*COMPRESSED, ".parquet")


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def _head(path: Path, is_table: bool) -> tuple[str, str]:
    """Return the start of a file as text, to the end of a line, and its encoding."""
    try:
        with open_bytes(path) as file:
            raw = file.read(NUM_BYTES)
            raw += file.readline(MAX_LINE_CHARACTERS)
            is_cut = not raw.endswith(b"\n") and bool(file.read(1))
    except (BadFileError, OSError) as error:  # a file that is not what its suffix says
        raise SpecError(f"{path}: {error}") from None
    if b"\0" in raw:
        raise SpecError(f"{path}: holds bytes that are no text; give txt, jsonl, csv or parquet")
    if is_cut and is_table:
        limit = f"{MAX_LINE_CHARACTERS:,} bytes"
        raise SpecError(f"{path}: a row is longer than {limit}; break it into several")
    encoding = "utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        return decoder.decode(raw, final=not is_cut), encoding
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def _json_rows(path: Path, head: str) -> Iterator[dict[str, Any]]:
    lines = [line for line in head.split("\n") if line.strip()][:NUM_ROWS]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise SpecError(f"{path}: line {number} is no JSON object; a row needs named columns")
        yield row
    if not lines:
        raise SpecError(f"{path}: holds no row")


def _table_rows(path: Path, head: str, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_LINE_CHARACTERS)
    try:
        rows = list(islice(csv.reader(io.StringIO(head), delimiter=delimiter), NUM_ROWS + 1))
    except csv.Error as error:
        raise SpecError(f"{path}: is no table that can be read: {error}") from None
    if len(rows) < 2:
        raise SpecError(f"{path}: has no row under its header")
    if any(len(name) > 60 or _is_number(name) or not name for name in rows[0]):
        got = " ".join(",".join(rows[0]).split())[:60]
        raise SpecError(f"{path}: its first row names no columns ({got}...); add a header row")
    for row in rows[1:]:
        yield dict(zip(rows[0], row, strict=False))


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise SpecError(f"{path}: {MISSING}") from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=NUM_ROWS)
        rows = next(batches, None)
    except Exception as error:  # pyarrow raises its own kinds
        reason = " ".join(str(error).split())
        raise SpecError(f"{path}: is no parquet file: {reason}") from None
    if rows is None:
        raise SpecError(f"{path}: holds no row")
    yield from rows.to_pylist()


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the text columns with their mean lengths, and the names of the others."""
    lengths: dict[str, list[int]] = {}
    for row in rows:
        for column, value in row.items():
            size = len(value) if isinstance(value, str) and not _is_number(value) else -1
            lengths.setdefault(str(column), []).append(size)
    text = {c: sum(n) // len(rows) for c, n in lengths.items() if min(n) >= 0 and any(n)}
    return {"columns": text, "others": tuple(c for c in lengths if c not in text)}


def _is_number(value: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[\d.,]+([eE][-+]?\d+)?\s*", value) is not None
