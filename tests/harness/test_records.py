"""Records are whole lines of strict JSON, and resuming cuts them back to the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.records import RecordWriter, read_records

LINES = [{"kind": "step", "step": n, "loss": 1 / n} for n in range(1, 6)]


def write(path: Path, lines: list[dict[str, object]], position: int = 0) -> int:
    """Write lines after a position; return the position at their end."""
    writer = RecordWriter(path, position)
    for line in lines:
        writer.write(line)
    end = writer.position()
    writer.close()
    return end


def test_no_file_is_no_records(tmp_path: Path) -> None:
    """A run that has not started has none."""
    assert read_records(tmp_path / "r") == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
def test_what_is_written_is_read(tmp_path: Path, weights: list[list[float]]) -> None:
    """In order, with every digit of every float, and text of any language."""
    lines: list[dict[str, object]] = [
        {"step": n, "weights": row, "text": "\n\u4e16\x00"} for n, row in enumerate(weights)
    ]
    write(tmp_path / "r", lines)

    assert repr(read_records(tmp_path / "r")) == repr(lines)


def test_a_line_is_on_its_way_to_the_disk_when_write_returns(tmp_path: Path) -> None:
    """Another process sees each record at once; nothing waits in a buffer."""
    writer = RecordWriter(tmp_path / "r")
    for count, line in enumerate(LINES, 1):
        writer.write(line)
        assert read_records(tmp_path / "r") == LINES[:count]
    writer.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_a_torn_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    """A process killed at any byte leaves whole records, and at most one torn line after them."""
    path = tmp_path / "r"
    path.unlink(missing_ok=True)
    size = write(path, LINES)
    whole = path.read_bytes()[: cut % (size + 1)]

    path.write_bytes(whole)

    # a record without its line break is whole: an object ends with the only } of its line
    assert read_records(path) == LINES[: whole.count(b"}")]


def test_a_damaged_line_inside_is_not_ignored(tmp_path: Path) -> None:
    """Only the end of a file can be torn by a kill; anything else is damage, and is told."""
    (tmp_path / "r").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')

    with pytest.raises(ValueError, match=r"line 2 of records\.jsonl is not JSON"):
        read_records(tmp_path / "r")


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """A writer at a position takes the file back to it, torn line and all."""
    path = tmp_path / "r"
    position = write(path, LINES[:2])
    write(path, LINES[3:], position)
    with path.open("ab") as file:
        file.write(b'{"kind": "st')

    write(path, LINES[2:], position)

    assert read_records(path) == LINES


def test_starting_anew_empties_the_file(tmp_path: Path) -> None:
    """A run that died before its first checkpoint leaves nothing behind."""
    write(tmp_path / "r", LINES)
    write(tmp_path / "r", LINES[:1])

    assert read_records(tmp_path / "r") == LINES[:1]


def test_records_that_are_gone_are_not_made_up(tmp_path: Path) -> None:
    """A file shorter than its checkpoint says is refused, not filled with zero bytes."""
    position = write(tmp_path / "r", LINES)
    (tmp_path / "r").write_bytes(b"")

    with pytest.raises(ValueError, match=f"ends before byte {position}.* delete {tmp_path}"):
        RecordWriter(tmp_path / "r", position)

    assert (tmp_path / "r").read_bytes() == b""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_json_lacks_is_written(tmp_path: Path, bad: float) -> None:
    """A NaN is refused wherever it is, and nothing of its record reaches the file."""
    writer = RecordWriter(tmp_path / "r")
    writer.write(LINES[0])

    with pytest.raises(ValueError, match="JSON compliant"):
        writer.write({"step": 2, "weights": [0.5, bad]})

    writer.write(LINES[1])
    writer.close()
    assert read_records(tmp_path / "r") == LINES[:2]
