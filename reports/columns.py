"""Turn the records of many runs into columns.

Columns of all runs are gathered as arrays and become frames once, at the end: a frame for each run
costs more than reading its file. Names of runs, domains and splits are stored as small numbers
(pandas categories), so that a thousand runs of a thousand steps stay well below a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

Json = dict[str, Any]

_STEP = {"step": "i4", "tokens": "i8", "loss": "f8", "lr": "f8", "grad_norm": "f8", "seconds": "f8"}
_EVAL = {"step": "i4", "tokens": "i8", "nats_per_token": "f8", "bits_per_byte": "f8"}
_EVAL |= {"seconds": "f8"}  # of training so far
_PER_DOMAIN = {"weight": "f8", "rows": "i4", "loss": "f4"}
_RECORD_KEYS = {"weight": "weights", "rows": "rows", "loss": "domain_losses"}
_COLUMNS: dict[str, dict[str, str]] = {
    "steps": _STEP,
    "evals": _EVAL | {"split": "O", "domain": "O"},
    "probes": {"step": "i4", "nats_per_token": "f8", "domain": "O"},
    "notes": {"step": "i4", "name": "O", "values": "O"},
    "weights": {"step": "i4", "tokens": "i8", "domain": "O"} | _PER_DOMAIN,
    "documents": {
        "step": "i4",
        "split": "O",
        "domain": "O",
        "document": "i4",
        "nats": "f8",
        "num_bytes": "i8",
    },
}
_CATEGORIES = ("split", "domain", "name")
_CODE = "i2"

Columns = dict[str, np.ndarray]


class Collected:
    """Columns of many runs on their way to frames."""

    def __init__(self) -> None:
        self.run_ids: list[str] = []
        self.parts: dict[str, list[Columns]] = {kind: [] for kind in _COLUMNS}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in _CATEGORIES}

    def add(self, run_id: str, domains: list[str], records: list[Json]) -> None:
        """Add one run; a record that lacks a key raises, and then nothing of the run is kept."""
        # Keyed, because a resumed run may have written a step a second time; the last one counts.
        steps = list({r["step"]: r for r in records if r["kind"] == "step"}.values())
        evals = {(r["step"], r["split"], r["domain"]): r for r in records if r["kind"] == "eval"}
        parts = {(r["split"], r["domain"]): r for r in records if r["kind"] == "documents"}
        probes = {r["domain"]: r for r in records if r["kind"] == "probe"}
        notes = [record for record in records if record["kind"] == "note"]
        columns = {
            "steps": _take(steps, _COLUMNS["steps"]),
            "evals": _take(list(evals.values()), _COLUMNS["evals"]),
            "probes": _take(list(probes.values()), _COLUMNS["probes"]),
            "notes": _take(notes, _COLUMNS["notes"]),
            "weights": _per_domain(steps, self._code("domain", domains)),
            "documents": _per_document(list(parts.values())),
        }
        self.run_ids.append(run_id)
        for kind, part in columns.items():
            self.parts[kind].append(part | self._coded(part))

    def _coded(self, part: Columns) -> Columns:
        """Return a part's names as small numbers: a pointer for each row would take the memory."""
        names = [name for name in _CATEGORIES if name in part and part[name].dtype == object]
        return {name: self._code(name, part[name]) for name in names}

    def _code(self, name: str, values: Iterable[str]) -> np.ndarray:
        known = self._codes[name]
        return np.array([known.setdefault(value, len(known)) for value in values], dtype=_CODE)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Join the runs into frames, a kind of record each; call it once."""
        return {kind: self._frame(kind) for kind in _COLUMNS}

    def _frame(self, kind: str) -> pd.DataFrame:
        parts = self.parts.pop(kind)
        lengths = [len(part["step"]) for part in parts]
        joined: dict[str, Any] = {}
        for name, dtype in _COLUMNS[kind].items():
            is_coded = name in _CATEGORIES
            nothing = np.empty(0, _CODE if is_coded else dtype)
            column = np.concatenate([nothing, *(part.pop(name) for part in parts)])
            joined[name] = self._named(name, column) if is_coded else column
        joined["run_id"] = pd.Categorical.from_codes(
            np.repeat(np.arange(len(parts)), lengths), categories=self.run_ids
        )
        return pd.DataFrame(joined, copy=False)

    def _named(self, name: str, codes: np.ndarray) -> pd.Categorical:
        """Return coded names as a category of those that occur, in alphabetical order."""
        names = list(self._codes[name])
        used = sorted(
            np.flatnonzero(np.bincount(codes, minlength=len(names))), key=names.__getitem__
        )
        place = np.zeros(len(names) + 1, dtype=_CODE)
        place[used] = np.arange(len(used))
        categories = pd.Index([names[code] for code in used], dtype=object)
        return pd.Categorical.from_codes(place[codes], categories=categories)


def _take(records: list[Json], columns: dict[str, str]) -> Columns:
    taken = {}
    for name, dtype in columns.items():
        values = [record[name] for record in records]
        if dtype == "O":  # np.array would unpack a list of dicts or lists
            taken[name] = np.empty(len(values), dtype=object)
            taken[name][:] = values
        else:
            taken[name] = np.array(values, dtype=dtype)  # null becomes NaN
    return taken


def _per_domain(steps: list[Json], domains: np.ndarray) -> Columns:
    """One row for each step and trained domain; `loss` is NaN where the batch had no such row.

    `domains` are the domains' codes.
    """
    num_domains = len(domains)
    columns = {
        name: np.repeat(np.array([s[name] for s in steps], dtype=dtype), num_domains)
        for name, dtype in (("step", "i4"), ("tokens", "i8"))
    }
    columns["domain"] = np.tile(domains, len(steps))
    for name, dtype in _PER_DOMAIN.items():
        values = np.array([s[_RECORD_KEYS[name]] for s in steps], dtype=dtype)
        columns[name] = values.reshape(len(steps), num_domains).ravel()
    return columns


def _per_document(records: list[Json]) -> Columns:
    """One row for each document of each domain: what a run's last evaluation found there."""
    lengths = [len(record["documents"]) for record in records]
    lists = {"document": "documents", "nats": "nats", "num_bytes": "bytes"}
    columns = {}
    for name, dtype in _COLUMNS["documents"].items():
        if name in lists:
            values = [value for record in records for value in record[lists[name]]]
            columns[name] = np.array(values, dtype=dtype)
        else:
            shared = np.array([record[name] for record in records], dtype=dtype)
            columns[name] = np.repeat(shared, lengths)
    return columns
