"""Lines of text out of files, compressed or not, and what is wrong with a file that has none.

A line is bounded: a file without line breaks would otherwise be read into memory whole before
anyone could say that it is no table. Bytes are decoded strictly, since a replaced character would
be learned; where that fails the place is searched in a second pass, which only a mistake pays for.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

MAX_LINE_CHARACTERS = 64 << 20
HEAD_BYTES = 1 << 16  # in which binary data shows a NUL byte
COMPRESSED = (".gz", ".zst")
DAMAGED = (EOFError, zlib.error, OSError)


class BadFileError(Exception):
    """What is wrong with a file, and the fix; `place` follows the path, `key` is what to change."""

    def __init__(self, message: str, place: str = "", key: str = "") -> None:
        super().__init__(message)
        self.place, self.key = place, key


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed where its suffix says so; BadFileError if damaged."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        with path.open("rb") as file:
            yield file
        return
    path.open("rb").close()  # whether it may be read is another question than whether it is whole
    try:
        with _decompressed(path) as stream:
            yield stream
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise BadFileError(
            f"is cut short or no {suffix} file ({reason}); copy or compress it again"
        ) from None


def _decompressed(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    from harness.corpus.sources.arrow import open_zstd

    return open_zstd(path)


def read_lines(path: Path, encoding: str, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a file with their ends; `newline` as in open(): None makes all ends \\n.

    BadFileError for binary data, other encodings and lines above MAX_LINE_CHARACTERS.
    """
    with open_bytes(path) as raw:
        if b"\0" in raw.read(HEAD_BYTES) and not _has_wide_units(encoding):
            raise BadFileError(
                'is binary, or UTF-16 (NUL bytes); remove it, or set encoding = "utf-16"'
            )
    number = 0
    try:
        with (
            open_bytes(path) as raw,
            io.TextIOWrapper(raw, _with_mark(encoding), newline=newline) as text,
        ):
            while line := text.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise BadFileError(
                        f"is longer than {MAX_LINE_CHARACTERS:,} characters; break it into lines",
                        f", line {number},",
                    )
                if "\0" in line:
                    raise BadFileError(
                        "has a NUL byte, which no text has; remove it", f", line {number},"
                    )
                yield line
    except UnicodeError as error:
        raise _bad_encoding(path, encoding, number + 1, error) from None


def _has_wide_units(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def _with_mark(encoding: str) -> str:
    """Return an encoding that also takes the mark which some programs put before UTF-8."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _bad_encoding(path: Path, encoding: str, line: int, error: UnicodeError) -> BadFileError:
    found = _first_bad_byte(path, encoding)
    if found is None:
        return BadFileError(f"is not {encoding}: {error}; set encoding", key="encoding")
    offset, value = found
    return BadFileError(
        f"byte {offset:,} (0x{value:02x}, about line {line:,}) is not {encoding}; "
        'set encoding (such as "latin-1") if the whole file has another one, or convert the file',
        ":",
        key="encoding",
    )


def _first_bad_byte(path: Path, encoding: str) -> tuple[int, int] | None:
    """Return (offset, value) of the first byte that cannot be decoded, after decompression."""
    decoder, fed = codecs.getincrementaldecoder(encoding)("strict"), 0
    with open_bytes(path) as raw:
        while True:
            chunk = raw.read(HEAD_BYTES)
            fed += len(chunk)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return fed - len(error.object) + error.start, error.object[error.start]
            except UnicodeError:  # of the whole, such as UTF-16 without its mark
                return None
            if not chunk:
                return None
