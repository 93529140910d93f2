"""What a study found, as plain JSON beside the runs: what `reports/` reads of it.

The trials stay in Optuna's storage, where its own tools read them; this file is a copy that needs
no database and no Optuna.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import write_json
from harness.identity import to_json
from sweeps.study import Row, metric_names
from sweeps.studyfile import Study
from sweeps.trial import RUNS

SCHEMA = 1


def of_arm(
    study: Study, arm: str, rows: list[Row], importances: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Return an arm's trials, its best, and which parameters mattered."""
    chosen, own_ = best(study, rows), own(study, arm, rows)
    return {
        "method": study.ablation.arms[arm].method,
        "optuna_study": study.optuna_name(arm),
        "space": {name: to_json(p) for name, p in study.parameters(arm).items()},
        "defaults": study.defaults(arm),
        "importances": importances,
        "best": None if chosen is None else chosen.number,
        "own": None if own_ is None else own_.number,
        "front": [row.number for row in front(study, rows)],
        "eligible": [row.number for row in eligible(study, rows)],
        "trials": [_plain(row) for row in rows],
    }


def _plain(row: Row) -> dict[str, Any]:
    values, reported = list(row.values), {str(k): v for k, v in row.reported.items()}
    return {
        "number": row.number,
        "slot": row.slot,
        "state": row.state,
        "values": values,
        "params": row.params,
        "facts": row.facts,
        "reported": reported,
    }


def eligible(study: Study, rows: list[Row]) -> list[Row]:
    """Return the trials that may be chosen: complete, at every seed, within the constraint."""
    limit = study.asked.max_overhead
    return [row for row in rows if _is_whole(study, row) and (limit is None or share(row) <= limit)]


def _is_whole(study: Study, row: Row) -> bool:
    return (
        row.state == "complete"
        and RUNS in row.facts  # or it was told by hand, and nobody knows what it has seen
        and set(row.facts["seeds"]) == set(study.asked.seeds)  # one that was stopped: easier ones
    )


def own(study: Study, arm: str, rows: list[Row]) -> Row | None:
    """Return the trial of the spec's own settings, complete at every seed; None without one."""
    if study.defaults(arm).keys() != study.parameters(arm).keys():
        return None  # the rest was drawn
    return next((row for row in rows if row.slot == 0 and _is_whole(study, row)), None)


def share(row: Row) -> float:
    """Return a trial's overhead as a share of its main runs' training seconds."""
    return float(row.facts["overhead_seconds"] / row.facts["train_seconds"])


def best(study: Study, rows: list[Row]) -> Row | None:
    """Return the trial with the lowest tuning loss; None where none may be chosen."""
    return min(eligible(study, rows), key=lambda row: row.values[0], default=None)


def front(study: Study, rows: list[Row]) -> list[Row]:
    """Return the trials that no other is below in loss and overhead both, cheapest first."""
    kept: list[Row] = []
    for row in sorted(eligible(study, rows), key=lambda row: (overhead(row), row.values[0])):
        if not kept or row.values[0] < kept[-1].values[0]:
            kept.append(row)
    return kept


def overhead(row: Row) -> float:
    """Return a trial's overhead in seconds, mean over its seeds."""
    return float(row.facts["overhead_seconds"] / len(row.facts["seeds"]))


def write(
    study: Study, out: Path, arms: dict[str, dict[str, Any]], storage: str, command: str
) -> Path:
    """Write OUT/studies/NAME.json; return its path."""
    asked = study.asked
    path = out / "studies" / f"{asked.name}.json"
    content = {
        "schema": SCHEMA,
        "name": asked.name,
        "spec": study.ablation.name,
        "objective": asked.objective,
        "metrics": metric_names(study),
        "trials": asked.trials,
        "seeds": list(asked.seeds),
        "sampler": asked.sampler,
        "pruner": asked.pruner,
        "max_overhead": asked.max_overhead,
        "storage": storage,
        "command": command,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        "arms": arms,
    }
    try:
        write_json(path, content)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None
    return path
