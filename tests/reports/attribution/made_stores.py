"""Score stores made up for tests of what reads them: written as `attribute score` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.attribution.normalize import FORMULAS
from harness.attribution.store import SIGN, VERSION, Query, Row, ScoreStore, write_lines


def write_store(
    folder: Path,
    scores: Any,
    rows: Sequence[Row],
    queries: Sequence[Query],
    label: str = "ekfac",
    threshold: float = 0.0,
    **about: Any,
) -> ScoreStore:
    """Write a store of scores [N, Q]."""
    folder.mkdir(parents=True)
    array = np.asarray(scores, np.float32)
    assert array.shape == (len(rows), len(queries))
    np.save(folder / "scores.npy", array)
    write_lines(folder / "rows.jsonl", (row._asdict() for row in rows))
    write_lines(folder / "queries.jsonl", (query._asdict() for query in queries))
    facts: dict[str, Any] = {
        "version": VERSION,
        "label": label,
        "estimator": label,
        "strategy": None,
        "identity": {"weights": "w", "rows": "r", "queries": "q", "estimator": {}, "factors": None},
        "num_rows": len(rows),
        "num_queries": len(queries),
        "queries": [query.name for query in queries],
        "row_tokens": 32,
        "module_names": [],
        "arrays": ["scores.npy"],
        "store": "npy",
        "sign": SIGN,
        "normalize": "none",
        "formula": FORMULAS["none"],
        "reduction": "mean",
        "self_influence": False,
        "rank": None,
        "rungs": [],
        "masked_rows": [],
        "masked_queries": [],
        "settings": {},
    }
    (folder / "about.json").write_text(json.dumps({**facts, **about}))
    return replace(ScoreStore.open(folder), threshold=threshold)


def some_rows(count: int, domain: str = "qa") -> list[Row]:
    """Return short questions with answers."""
    return [Row(domain, i, f"Tell of thing {i}.", f" It is {i}.", 4) for i in range(count)]


def some_queries(count: int) -> list[Query]:
    """Return short queries."""
    return [Query(f"q{i}", f"And of {i}?", f" So {i}.", 3) for i in range(count)]
