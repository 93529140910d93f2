"""How good the models are: metrics of their answers, accuracy of their choices, with errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from reports.attribution.agreement import Estimate, mean_interval

Found = dict[str, Any]
METRICS = {
    "exact": "exact match",
    "f1": "token F1",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}


class Measured(NamedTuple):
    """A mean, its standard error, and its difference to the first model."""

    mean: float
    error: float
    gap: Estimate | None


def answers(found: Found) -> dict[str, dict[str, Measured]]:
    """Return every metric of every model, by model; {} where no right answers are known."""
    rows = [row for row in found["answers"] if row["metrics"]]
    if not rows:
        return {}
    table: dict[str, dict[str, Measured]] = {}
    first = found["models"][0]
    for model in found["models"]:
        table[model] = {}
        for metric in METRICS:
            own, base = (
                np.array([row["metrics"][name][metric] for row in rows]) for name in (model, first)
            )
            table[model][metric] = _measured(own, None if model == first else base)
    return table


class Chosen(NamedTuple):
    """How a model chooses."""

    model: str
    subjects: dict[str, Measured]
    all: Measured
    """Over all questions, each counting once."""
    cut: int
    """Questions whose beginning did not fit into its context."""


def choices(found: Found) -> list[Chosen]:
    """Return the accuracies of the part choice, model by model."""
    subjects = np.array(found["subjects"])
    if not len(subjects):
        return []
    first, rows = found["models"][0], []
    right = {m: np.array(own["right"], dtype=float) for m, own in found["answered"].items()}
    for model in found["models"]:
        base = right[first] if model != first else None
        by_subject = {
            str(name): _measured(
                right[model][subjects == name], None if base is None else base[subjects == name]
            )
            for name in dict.fromkeys(subjects.tolist())
        }
        cut = int(found["answered"][model]["cut"])
        rows.append(Chosen(model, by_subject, _measured(right[model], base), cut))
    return rows


def _measured(own: np.ndarray, base: np.ndarray | None) -> Measured:
    size = len(own)
    error = float(own.std(ddof=1)) / math.sqrt(size) if size > 1 else math.nan
    gap = None if base is None else mean_interval(own - base)
    return Measured(float(own.mean()), error, gap)
