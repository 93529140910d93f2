"""Set two results of the same question side by side: two report folders, or two commits' runs.

Arms are paired by label (runs of commits by their settings) and then by seed, as within a report: a
difference B - A in held-out bits per byte, with its t interval. Where both sides name one run id it
is the same run, and no evidence of anything. Descriptive: nothing is tested.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import read_json
from harness.records import read_records
from reports import measures
from reports.columns import Json
from reports.load import Evidence, load
from reports.stats import Paired, paired_difference

# Of a run's spec: what names a cell, and what a commit changes without being asked.
_NOT_ASKED = ("mixer", "num_steps", "seed", "data_seed", "engine")


@dataclass(frozen=True)
class Side:
    """One of the two: values and run ids by arm and seed."""

    name: str
    metric: str
    values: dict[str, dict[int, float]]
    """Held-out bits per byte on the primary metric."""
    run_ids: dict[str, dict[int, str]]
    overheads: dict[str, float] = field(default_factory=dict)
    """Mean overhead in percent of training FLOPs."""
    verdicts: dict[str, str] = field(default_factory=dict)
    spec: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One arm on both sides; None or NaN where a side lacks it."""

    arm: str
    mean_a: float
    mean_b: float
    pair: Paired | None
    num_same: int
    """Seeds whose run is the same one on both sides."""
    overheads: tuple[float, float]
    verdicts: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two sides, arm by arm, and what their specs differ in."""

    a: Side
    b: Side
    rows: list[Row]
    changes: list[tuple[str, str, str]]
    """(dotted key, value in A, value in B)."""


def compare(a: Side, b: Side) -> Comparison:
    """Return both sides, arm by arm; SpecError where they share no arm."""
    if not set(a.values) & set(b.values):
        raise SpecError(f"{a.name} and {b.name} share no arm; nothing can be compared")
    if a.metric != b.metric:
        raise SpecError(f"the primary metric is {a.metric} in {a.name} and {b.metric} in {b.name}")
    rows = [_row(arm, a, b) for arm in dict.fromkeys([*a.values, *b.values])]
    return Comparison(a, b, rows, _changes(a.spec, b.spec))


def side(given: str, out: Path) -> Side:
    """Return what `given` names: a report's folder, an output folder, or a commit of runs in `out`.

    SpecError where it is none of these.
    """
    path = Path(given)
    if path.is_dir():
        if path.parent.name == "report":
            return of_evidence(load(path.parent.parent, path.name), given)
        return of_evidence(load(path), given)
    if len(given) >= 4 and all(letter in "0123456789abcdef" for letter in given):
        return of_commit(out, given)
    fix = "give a folder that holds a report, or a commit whose runs lie in --out"
    raise SpecError(f"{given}: is no folder and no commit; {fix}")


def of_evidence(evidence: Evidence, name: str) -> Side:
    """Return an ablation as one side."""
    primary = evidence.header["primary"]
    runs = measures.main_runs(evidence)
    ids: dict[str, dict[int, str]] = {}
    for row in runs.itertuples():
        ids.setdefault(row.arm, {})[int(row.seed)] = row.run_id
    costs = measures.costs(evidence)
    costs = costs.assign(percent=100 * costs["overhead_flops"] / costs["train_flops"])
    return Side(
        name=name,
        metric=primary,
        values={arm: own for arm, own in measures.by_seed(evidence, primary).items() if own},
        run_ids=ids,
        overheads={str(arm): float(p) for arm, p in costs.groupby("arm")["percent"].mean().items()},
        verdicts={arm: judged.verdict.word for arm, judged in measures.judge(evidence).items()},
        spec=evidence.header["spec"],
    )


def of_commit(out: Path, commit: str) -> Side:
    """Return the finished, evaluated runs in `out` that a commit has made, by their settings."""
    values: dict[str, dict[int, float]] = {}
    ids: dict[str, dict[int, str]] = {}
    for path in sorted((out / "runs").glob("*/run.json")):
        header = read_json(path)
        if not str(header.get("git_commit") or "").startswith(commit):
            continue
        if header["status"] != "finished" or not header["spec"].get("evaluation"):
            continue
        loss = _target_loss(path.parent, header)
        if loss is not None:
            arm, seed = _settings(header["spec"]), int(header["spec"]["seed"])
            if seed in values.get(arm, {}):
                twins = f"{ids[arm][seed]} and {header['run_id']}"
                raise SpecError(f"{commit}: {twins} asked for the same; name a report's folder")
            values.setdefault(arm, {})[seed] = loss
            ids.setdefault(arm, {})[seed] = header["run_id"]
    if not values:
        raise SpecError(f"{commit}: no finished run in {out} was made at this commit")
    return Side(commit, "target", values, ids)


def _target_loss(folder: Path, header: Json) -> float | None:
    """Return the last held-out loss on the target in bits per byte; None where it has none."""
    found = {
        record["domain"]: record["bits_per_byte"]
        for record in read_records(folder / "records.jsonl")
        if record["kind"] == "eval"
        and record["split"] == "heldout"
        and record["step"] == header["num_steps"]
    }
    targets = header["targets"]
    if not targets.keys() <= found.keys():
        return None
    return sum(weight * found[domain] for domain, weight in targets.items())


def _settings(spec: Json) -> str:
    """Return what a run asked for, without seed and code: its method, settings and length."""
    mixer = spec["mixer"]
    name = mixer["class"].rpartition(":")[2]
    settings = json.dumps(mixer["settings"], sort_keys=True)
    order = "" if spec["data_seed"] == spec["seed"] else ", data in another order"
    rest = {key: value for key, value in spec.items() if key not in _NOT_ASKED}
    setting = hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=3).hexdigest()
    return f"{name} {settings}, {spec['num_steps']} steps{order} (text and model {setting})"


def _row(arm: str, a: Side, b: Side) -> Row:
    ours, theirs = a.values.get(arm, {}), b.values.get(arm, {})
    seeds = set(ours) & set(theirs)
    ids_a, ids_b = a.run_ids.get(arm, {}), b.run_ids.get(arm, {})
    return Row(
        arm=arm,
        mean_a=_mean(ours),
        mean_b=_mean(theirs),
        pair=paired_difference(theirs, ours) if seeds else None,
        num_same=sum(ids_a.get(seed) == ids_b.get(seed) for seed in seeds),
        overheads=(a.overheads.get(arm, math.nan), b.overheads.get(arm, math.nan)),
        verdicts=(a.verdicts.get(arm, ""), b.verdicts.get(arm, "")),
    )


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values) if values else math.nan


def _changes(a: Json, b: Json) -> list[tuple[str, str, str]]:
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    keys = [key for key in dict.fromkeys([*flat_a, *flat_b]) if flat_a.get(key) != flat_b.get(key)]
    return [(key, _short(flat_a.get(key)), _short(flat_b.get(key))) for key in keys]


def _flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        pairs = [_flat(inner, f"{key}.{name}" if key else name) for name, inner in value.items()]
        return [pair for found in pairs for pair in found]
    return [(key, value)]


def _short(value: Any) -> str:
    text = "" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
