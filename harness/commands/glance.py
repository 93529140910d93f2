"""A first look at files: which format, which columns, how much text. Reads a little, keeps nothing.

What it guesses is written into a spec for a person to check, so it looks at the first rows of one
file and at the sizes of all; the price is that row 10,000 may look different.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.errors import SpecError

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PACKED = (".gz", ".zst")
NUM_ROWS = 20
NUM_BYTES = 200_000  # of a file, for its first look
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
    head, shared["encoding"] = _head(first)
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


def format_of(path: Path) -> str | None:
    """Return the format that a file's name tells, also under .gz or .zst; None for no known one."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in (*PACKED, ".parquet")


def _size(path: Path) -> int:
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix.lower() == ".zst":
        return io.BytesIO(_arrow(path).input_stream(str(path), compression="zstd").read(NUM_BYTES))
    return path.open("rb")


def _arrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        fix = 'pip install "steelyard[data]"'
        raise SpecError(f"{path}: reading {path.suffix} needs pyarrow; {fix}") from None
    return pyarrow


def _head(path: Path) -> tuple[str, str]:
    """Return the start of a file as text, up to its last whole line, and its encoding."""
    try:
        with _open(path) as file:
            raw = file.read(NUM_BYTES)
    except (OSError, EOFError) as error:  # a file that is not what its suffix says
        raise SpecError(f"{path}: cannot be unpacked: {error}") from None
    if b"\0" in raw:
        raise SpecError(f"{path}: holds bytes that are no text; give txt, jsonl, csv or parquet")
    if len(raw) == NUM_BYTES and b"\n" in raw:
        raw = raw[: raw.rindex(b"\n")]
    for encoding in ("utf-8-sig", "utf-8"):
        try:
            has_mark = raw.startswith(b"\xef\xbb\xbf")
            if (encoding == "utf-8-sig") == has_mark:
                return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            break
    return raw.decode("latin-1"), "latin-1"


def _json_rows(path: Path, head: str) -> Iterator[dict[str, Any]]:
    lines = [line for line in head.split("\n") if line.strip()][:NUM_ROWS]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SpecError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise SpecError(f"{path}: line {number} is no JSON object; a row needs named columns")
        yield row
    if not lines:
        raise SpecError(f"{path}: holds no row")


def _table_rows(path: Path, head: str, delimiter: str) -> Iterator[dict[str, Any]]:
    rows = list(csv.reader(io.StringIO(head), delimiter=delimiter))[: NUM_ROWS + 1]
    if len(rows) < 2:
        raise SpecError(f"{path}: has no row under its header")
    if any(len(name) > 60 or _is_number(name) or not name for name in rows[0]):
        got = " ".join(",".join(rows[0]).split())[:60]
        raise SpecError(f"{path}: its first row names no columns ({got}...); add a header row")
    for row in rows[1:]:
        yield dict(zip(rows[0], row, strict=False))


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    _arrow(path)
    import pyarrow.parquet as parquet

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
