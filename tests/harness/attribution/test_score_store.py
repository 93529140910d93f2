"""Scores on disk: what a kill leaves behind is told apart from what was finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.attribution.score_writer import DONE, NpyWriter, ParquetWriter, Writer
from harness.attribution.store import ABOUT, ScoreStore, export_npz, write_lines
from harness.errors import SpecError

SHAPES = {"scores.npy": (10, 3), "self.npy": (10,)}
VALUES = np.arange(30, dtype=np.float32).reshape(10, 3) / 7


def fill(writer: Writer, *chunks: int) -> None:
    """Write chunks of four rows."""
    for chunk in chunks:
        rows = slice(4 * chunk, 4 * chunk + 4)
        parts = {"scores.npy": VALUES[rows], "self.npy": VALUES[rows, 0]}
        writer.write(chunk, 4 * chunk, parts)


def about(**changes: Any) -> dict[str, Any]:
    """Return the least that a store says of itself."""
    facts = {"version": 1, "label": "x", "num_rows": 10, "num_queries": 3, "row_tokens": 5}
    facts |= {"module_names": [], "arrays": ["scores.npy", "self.npy"], "store": "npy"}
    return {**facts, "self_influence": True, "masked_rows": [], "masked_queries": [], **changes}


def finish(folder: Path, **changes: Any) -> ScoreStore:
    """Write what is said of ten rows and three queries."""
    (folder / ABOUT).write_text(json.dumps(about(**changes)))
    rows = (
        {"domain": "d", "row": i, "prompt": "", "answer": f"r{i}", "tokens": 2} for i in range(10)
    )
    write_lines(folder / "rows.jsonl", rows)
    names = ({"name": n, "prompt": "p", "answer": "a", "tokens": 1} for n in "uvw")
    write_lines(folder / "queries.jsonl", names)
    return ScoreStore.open(folder)


def test_a_chunk_is_believed_only_if_its_numbers_are_there(tmp_path: Path) -> None:
    fill(NpyWriter(tmp_path, SHAPES, 4), 0, 2)
    assert NpyWriter(tmp_path, SHAPES, 4).done() == {0, 2}

    array = np.load(tmp_path / "scores.npy", mmap_mode="r+")
    array[9, 1] = 5.0  # half of a page never reached the disk
    array.flush()
    with (tmp_path / DONE).open("ab") as file:
        file.write(b'{"chunk": 1, "dig')  # and a line was being written

    again = NpyWriter(tmp_path, SHAPES, 4)
    assert again.done() == {0}
    fill(again, 1, 2)
    assert NpyWriter(tmp_path, SHAPES, 4).done() == {0, 1, 2}
    assert np.array_equal(finish(tmp_path).total, VALUES)


def test_arrays_of_another_shape_start_anew(tmp_path: Path) -> None:
    fill(NpyWriter(tmp_path, SHAPES, 4), 0)

    assert NpyWriter(tmp_path, {**SHAPES, "scores.npy": (11, 3)}, 4).done() == set()


def test_parquet_holds_the_same_numbers(tmp_path: Path) -> None:
    writer = ParquetWriter(tmp_path)
    fill(writer, 2, 0)
    (tmp_path / "parts/000001.parquet.part-1").write_bytes(b"PAR1")  # killed on the way
    assert ParquetWriter(tmp_path).done() == {0, 2}
    fill(writer, 1)

    store = finish(tmp_path, store="parquet", arrays=[])

    assert np.array_equal(store.total, VALUES)
    assert store.self_rows is not None
    assert np.array_equal(store.self_rows, VALUES[:, 0])


@pytest.mark.parametrize("column", ["total", "self_rows"])
@pytest.mark.parametrize("damage", ["torn", "other", "gone"])
def test_a_damaged_part_is_one_line(column: str, damage: str, tmp_path: Path) -> None:
    fill(ParquetWriter(tmp_path), 0, 1, 2)
    store, part = finish(tmp_path, store="parquet", arrays=[]), tmp_path / "parts/000001.parquet"
    if damage == "torn":
        part.write_bytes(part.read_bytes()[:-20])
    elif damage == "other":
        pd.DataFrame({"row": [1]}).to_parquet(part)
    else:
        part.unlink()

    with pytest.raises(SpecError, match=r"6, [13]\] scores, not|unreadable .*; delete") as refused:
        getattr(store, column)

    assert "\n" not in str(refused.value)


def test_npz_is_as_the_seed_writes_it(tmp_path: Path) -> None:
    """Scores [Q, N]: element (i, j) is of train row j for query i."""
    fill(NpyWriter(tmp_path, SHAPES, 4), 0, 1, 2)

    with np.load(export_npz(finish(tmp_path), tmp_path / "deep/x.npz")) as found:
        assert np.array_equal(found["scores"], VALUES.T)
        assert found["queries"].tolist() == ["u", "v", "w"]
        assert found["rows"].tolist() == list(range(10))
        assert set(found["domains"]) == {"d"}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("about", "the scores are not finished; run score again"),
        ("folder", "the scores are not there; run score again"),
        ("version", "scores of version 0, not 1; score again"),
        ("array", "unreadable"),
        ("shape", r"\[10, 3\] scores, not \[10, 4\]; delete the folder"),
    ],
)
def test_what_cannot_be_read_is_one_line(broken: str, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    fill(NpyWriter(folder, SHAPES, 4), 0, 1, 2)
    changes = {"version": {"version": 0}, "shape": {"num_queries": 4}}.get(broken, {})
    if broken not in ("about", "folder"):
        (folder / ABOUT).write_text(json.dumps(about(**changes)))
    if broken == "array":
        (folder / "scores.npy").write_bytes(b"\x93NUMPY")

    with pytest.raises(SpecError, match=said) as refused:
        _ = ScoreStore.open(folder if broken != "folder" else tmp_path / "none").total

    assert "\n" not in str(refused.value)
