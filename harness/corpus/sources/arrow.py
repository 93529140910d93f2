"""Parquet files and zstd streams. The only file that imports pyarrow, and only where one is met."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from harness.corpus.sources.streams import BadFileError, open_bytes

if TYPE_CHECKING:
    from types import ModuleType

ROWS = 1024  # held as Python objects at a time
MISSING = 'needs pyarrow, which is not installed; pip install "steelyard[data]"'


def open_zstd(path: Path) -> IO[bytes]:
    """Return a stream of what is compressed in `path`."""
    return io.BufferedReader(_pyarrow().input_stream(str(path), compression="zstd"))


def parquet_rows(path: Path, wanted: frozenset[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, values of the wanted columns); other columns are not read.

    Where a wanted column is not there, the first row comes with all columns and None as values,
    so that the caller can tell which there are.
    """
    pyarrow = _pyarrow()
    import pyarrow.parquet as parquet

    number = 0
    try:
        with open_bytes(path) as raw:
            compressed = path.suffix.lower() in (
                ".gz",
                ".zst",
            )  # the format has its index at the end
            file = parquet.ParquetFile(pyarrow.BufferReader(raw.read()) if compressed else raw)
            names = file.schema_arrow.names
            if not wanted <= set(names):
                yield 1, dict.fromkeys(names)
            twice = next((name for name in sorted(wanted) if names.count(name) > 1), None)
            if twice is not None:  # rows would have the last of them
                raise BadFileError(f"has two columns {twice!r}; rename one")
            for batch in file.iter_batches(batch_size=ROWS, columns=sorted(wanted)):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise BadFileError(
            f"is no parquet file that can be read ({reason}); write it again, or set format"
        ) from None


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError:
        raise BadFileError(MISSING) from None
    return cast("ModuleType", pyarrow)
