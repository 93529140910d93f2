"""A finished set of scores, as every later stage reads it: numpy and JSON, no torch.

A store is one folder: one estimator, N train rows, Q queries.

    about.json      what the scores mean and are of; written last: without it, a store is not done
    scores.npy      [N, Q] float32, or parts/*.parquet
    modules.npy     [N, Q, M] and tokens.npy [N, Q, T], if asked for
    self.npy        [N] and self_queries.npy [Q], if asked for
    rows.jsonl      N lines: domain, row, prompt, answer, tokens (counted targets)
    queries.jsonl   Q lines: name, prompt, answer, tokens

Sign everywhere: positive, training on the row lowers the query's loss. Every number is finite; rows
or queries that were masked have zeros, and about.json names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import SpecError
from harness.files import read_json, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABOUT = "about.json"
SCORES = "scores.npy"
MODULES = "modules.npy"
TOKENS = "tokens.npy"
SELF = "self.npy"
SELF_QUERIES = "self_queries.npy"
PARTS = "parts"
ROWS = "rows.jsonl"
QUERIES = "queries.jsonl"
VERSION = 1
SIGN = "positive: training on the row lowers the query's loss"


class Row(NamedTuple):
    """A train row as it was scored."""

    domain: str
    row: int
    """Its number inside its domain."""
    prompt: str
    answer: str
    tokens: int
    """Counted targets."""

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return self.prompt + self.answer


class Query(NamedTuple):
    """A query as it was scored for."""

    name: str
    prompt: str
    answer: str
    tokens: int

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return self.prompt + self.answer


@dataclass(frozen=True, eq=False)
class ScoreStore:
    """Scores [N, Q] of one estimator, with all that is known of them."""

    folder: Path
    about: dict[str, Any]
    named: str = ""
    """The label that it is read under; "" for the one that it was scored under."""
    threshold: float = 0.0
    """Scores nearer to zero than so many standard deviations of their query's are not counted."""

    @classmethod
    def open(cls, folder: Path) -> ScoreStore:
        """Open a complete store; SpecError where there is none."""
        about = read_json(folder / ABOUT)
        if about is None:
            why = "is not finished" if folder.exists() else "is not there"
            raise SpecError(f"{folder}: the scores are {why.removeprefix('is ')}; run score again")
        if about.get("version") != VERSION:
            found = about.get("version")
            raise SpecError(f"{folder}: scores of version {found}, not {VERSION}; score again")
        return cls(folder, about)

    @property
    def label(self) -> str:
        """The estimator's label in the spec."""
        return self.named or str(self.about["label"])

    @cached_property
    def total(self) -> NDArray[np.float32]:
        """[N, Q], mapped into memory where they are an array on disk."""
        shape = self.about["num_rows"], self.about["num_queries"]
        if self.about["store"] == "npy":
            return self._array(SCORES, shape)
        return self._columns([f"q{q}" for q in range(shape[1])])

    @property
    def modules(self) -> NDArray[np.float32] | None:
        """[N, Q, M], of `module_names`; None unless they were asked for."""
        return self._part(MODULES, len(self.module_names))

    @property
    def tokens(self) -> NDArray[np.float32] | None:
        """[N, Q, T], by position of the row; None unless they were asked for."""
        return self._part(TOKENS, self.about["row_tokens"])

    @property
    def module_names(self) -> list[str]:
        """The M modules."""
        return list(self.about["module_names"])

    @cached_property
    def self_rows(self) -> NDArray[np.float32] | None:
        """[N] float32, each row's score on itself; None unless they were asked for."""
        if not self.about["self_influence"]:
            return None
        if self.about["store"] == "npy":
            return self._array(SELF, (self.about["num_rows"],))
        return self._columns(["self"])[:, 0]

    @property
    def self_queries(self) -> NDArray[np.float32] | None:
        """[Q], each query's score on itself; None unless they were asked for."""
        if not self.about["self_influence"]:
            return None
        return self._array(SELF_QUERIES, (self.about["num_queries"],))

    @property
    def masked_rows(self) -> list[int]:
        """Places of rows that have no score, but zeros in their place."""
        return [entry["place"] for entry in self.about["masked_rows"]]

    @property
    def masked_queries(self) -> list[int]:
        """Places of queries that have no scores, but zeros in their place."""
        return [entry["place"] for entry in self.about["masked_queries"]]

    def rows(self) -> list[Row]:
        """Return the N rows."""
        return [Row(**line) for line in read_lines(self.folder / ROWS)]

    def queries(self) -> list[Query]:
        """Return the Q queries."""
        return [Query(**line) for line in read_lines(self.folder / QUERIES)]

    def _part(self, name: str, size: int) -> NDArray[np.float32] | None:
        if name not in self.about["arrays"]:
            return None
        return self._array(name, (self.about["num_rows"], self.about["num_queries"], size))

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SpecError(f"{path}: unreadable ({error}); delete {self.folder}") from None
        return _of_shape(array, shape, path)

    def _columns(self, names: list[str]) -> NDArray[np.float32]:
        """Return [N, columns] of the parquet parts, one after the other."""
        need_pyarrow()
        import pandas as pd

        found = [np.zeros((0, len(names)), np.float32)]
        for path in sorted((self.folder / PARTS).glob("*.parquet")):
            try:
                frame = pd.read_parquet(path, columns=names, engine="pyarrow")
            except (OSError, ValueError, KeyError) as error:  # pyarrow's own are among them
                why = str(error).partition("\n")[0]
                raise SpecError(f"{path}: unreadable ({why}); delete {self.folder}") from None
            found.append(frame.to_numpy(np.float32))
        shape = self.about["num_rows"], len(names)
        return _of_shape(np.concatenate(found), shape, self.folder / PARTS)


def need_pyarrow() -> None:
    """Refuse a parquet store where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        fix = 'pip install "steelyard[data]", or set "npy"'
        raise SpecError(f"scores.store: parquet needs pyarrow; {fix}")


def opened(stores: Sequence[Path | ScoreStore], reader: str) -> list[ScoreStore]:
    """Return stores, opened; SpecError where they differ in rows or queries, or there is none.

    `reader` is the command that wants them, for the message.
    """
    found = [ScoreStore.open(one) if isinstance(one, Path) else one for one in stores]
    if not found:
        raise SpecError(f"{reader}: no scores; run attribute score first")
    for other in found[1:]:
        for what in ("rows", "queries"):
            if other.about["identity"][what] != found[0].about["identity"][what]:
                which = f"{found[0].label!r} and {other.label!r}"
                raise SpecError(f"{reader}: the scores of {which} are of other {what}; score again")
    return found


def _of_shape(array: Any, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    if array.shape != shape:
        wrong = f"{list(array.shape)} scores, not {list(shape)}"
        raise SpecError(f"{path}: {wrong}; delete the folder and score again")
    return array  # type: ignore[no-any-return]


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    with whole_file(path) as file:
        for value in values:
            file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file."""
    try:
        return [json.loads(line) for line in path.read_text().split("\n") if line]
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: unreadable ({error}); delete its folder, score again") from None


def export_npz(store: ScoreStore, path: Path) -> Path:
    """Write what the pipeline of seed 001 writes: `scores` [Q, N] float32, and whose they are.

    `queries` [Q] are names, `domains` and `rows` [N] say which train row a column is.
    """
    rows = store.rows()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(
            file,
            scores=np.ascontiguousarray(store.total.T),
            queries=np.array([query.name for query in store.queries()]),
            domains=np.array([row.domain for row in rows]),
            rows=np.array([row.row for row in rows], dtype=np.int64),
        )
    return path
