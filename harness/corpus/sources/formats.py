"""Rows out of files: one reader for each format, each a generator that holds one row at a time.

A row is a dict of columns. Text has the columns `text` and `file`, so that a template or a group
works on it as on a table; a text file that no separator cuts is one row, and so is held whole. Line
ends become a line feed wherever text is read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.corpus.sources import arrow, streams
from harness.corpus.sources.separators import pieces
from harness.corpus.sources.streams import BadFileError, read_lines

Rows = Iterator[tuple[int, dict[str, Any]]]
SUFFIXES = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


class Reading(NamedTuple):
    """How the files of a domain are to be read."""

    encoding: str
    separator: re.Pattern[str] | None
    wanted: frozenset[str]
    """Columns that documents are made of."""


def format_of(path: Path) -> str | None:
    """Return the format that a file's name tells, compressed or not; None if it does not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in streams.COMPRESSED:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def read_rows(path: Path, name: str, format: str, how: Reading) -> Rows:
    """Yield (row number from 1, columns) of a file; number 0 for a file that is one document."""
    if format == "text":
        return _text_rows(path, name, how)
    return TABLES[format](path, how)


def _text_rows(path: Path, name: str, how: Reading) -> Rows:
    lines = read_lines(path, how.encoding)
    if how.separator is None:
        text = "".join(lines)
        if text.strip():
            yield 0, {"text": text, "file": name}
        return
    number = 0
    for piece in pieces(lines, how.separator):
        if piece.strip():
            number += 1
            yield number, {"text": piece, "file": name}


def _json_rows(path: Path, how: Reading) -> Rows:
    for number, line in enumerate(read_lines(path, how.encoding), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise BadFileError(f"is no JSON ({reason}); correct the line", f":{number}") from None
        if not isinstance(values, dict):
            what = type(values).__name__
            raise BadFileError(
                f'is a JSON {what} where an object such as {{"text": "..."}} is due', f":{number}"
            )
        yield number, values


def _separated_rows(path: Path, how: Reading, delimiter: str) -> Rows:
    csv.field_size_limit(streams.MAX_LINE_CHARACTERS)
    reader = csv.reader(read_lines(path, how.encoding, newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise BadFileError(f"has two columns {twice!r}; rename one in its first line")
        number = 0
        for values in reader:
            if not values:
                continue
            number += 1
            if len(values) != len(header):
                raise BadFileError(
                    f"has {len(values)} fields where the first line names {len(header)} columns; "
                    "quote fields that hold a delimiter or a line break",
                    f", row {number},",
                )
            yield number, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise BadFileError(
            f"is no {'tsv' if delimiter == chr(9) else 'csv'} that can be read ({error}); "
            "look for a quote that is not closed",
            f", line {reader.line_num},",
        ) from None


TABLES: dict[str, Callable[[Path, Reading], Rows]] = {
    "jsonl": _json_rows,
    "csv": partial(_separated_rows, delimiter=","),
    "tsv": partial(_separated_rows, delimiter="\t"),
    "parquet": lambda path, how: arrow.parquet_rows(path, how.wanted),
}
