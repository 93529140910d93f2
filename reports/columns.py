"""Turn the records of many runs into columns.

Columns of all runs are gathered as arrays and become frames once, at the end: a frame for each run
costs more than reading its file. Names of runs, domains and splits are stored as small numbers
(pandas categories), so that a thousand runs of a thousand steps stay well below a gigabyte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

Json = dict[str, Any]

_STEP = {"step": "i4", "tokens": "i8", "loss": "f8", "lr": "f8", "grad_norm": "f8", "seconds": "f8"}
_EVAL = {"step": "i4", "tokens": "i8", "nats_per_token": "f8", "bits_per_byte": "f8"}
_PER_DOMAIN = {"weight": "f8", "rows": "i4", "loss": "f4"}
_RECORD_KEYS = {"weight": "weights", "rows": "rows", "loss": "domain_losses"}
_COLUMNS: dict[str, dict[str, str]] = {
    "steps": _STEP,
    "evals": _EVAL | {"split": "O", "domain": "O"},
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

Columns = dict[str, np.ndarray]


class Collected:
    """Columns of many runs on their way to frames."""

    def __init__(self) -> None:
        self.run_ids: list[str] = []
        self.parts: dict[str, list[Columns]] = {kind: [] for kind in _COLUMNS}

    def add(self, run_id: str, domains: list[str], records: list[Json]) -> None:
        """Add one run; a record that lacks a key raises, and then nothing of the run is kept."""
        # Keyed, because a resumed run may have written a step a second time; the last one counts.
        steps = list({r["step"]: r for r in records if r["kind"] == "step"}.values())
        evals = {(r["step"], r["split"], r["domain"]): r for r in records if r["kind"] == "eval"}
        parts = {(r["split"], r["domain"]): r for r in records if r["kind"] == "documents"}
        notes = [record for record in records if record["kind"] == "note"]
        columns = {
            "steps": _take(steps, _COLUMNS["steps"]),
            "evals": _take(list(evals.values()), _COLUMNS["evals"]),
            "notes": _take(notes, _COLUMNS["notes"]),
            "weights": _per_domain(steps, domains),
            "documents": _per_document(list(parts.values())),
        }
        self.run_ids.append(run_id)
        for kind, part in columns.items():
            self.parts[kind].append(part)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Join the runs into frames: steps, evals, notes, weights, documents; call it once."""
        return {kind: self._frame(kind) for kind in _COLUMNS}

    def _frame(self, kind: str) -> pd.DataFrame:
        parts = self.parts.pop(kind)
        lengths = [len(part["step"]) for part in parts]
        joined: dict[str, Any] = {}
        for name, dtype in _COLUMNS[kind].items():
            nothing = np.empty(0, dtype)
            column = np.concatenate([nothing, *(part.pop(name) for part in parts)])
            joined[name] = pd.Categorical(column) if name in _CATEGORIES else column
        joined["run_id"] = pd.Categorical.from_codes(
            np.repeat(np.arange(len(parts)), lengths), categories=self.run_ids
        )
        return pd.DataFrame(joined)


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


def _per_domain(steps: list[Json], domains: list[str]) -> Columns:
    """One row for each step and trained domain; `loss` is NaN where the batch had no such row."""
    num_domains = len(domains)
    columns = {
        name: np.repeat(np.array([s[name] for s in steps], dtype=dtype), num_domains)
        for name, dtype in (("step", "i4"), ("tokens", "i8"))
    }
    columns["domain"] = np.tile(np.array(domains, dtype=object), len(steps))
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
