"""Read the folder of an ablation into pandas frames, whatever state its runs are in.

A report must appear while runs are still going, after one was killed in the middle of a line, and
when one failed: so nothing here raises because of a single run. A run whose files cannot be trusted
gets the status `damaged` or `missing` and a reason, and the report shows both. The price is that a
caller must look at `runs.status` before it uses a number; `reports.measures` does so in one place.
Frames are keyed by run id alone, because two arms that ask for the same training share a run.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import SpecError
from harness.records import read_records
from reports.columns import Collected, Json

SCHEMA = 1
MAIN, AUXILIARY, LONGER = "main", "auxiliary", "equal compute"
"""Kinds of run: the one that is compared; one that a plan asked for beside it; and the baseline's
at an arm's compute, which is evaluated and no part of the arm's bill."""
ACCOUNTS = ("train", "mixer", "eval", "save")
UNITS = ("seconds", "flops", "tokens", "peak_bytes")
COST_COLUMNS = [f"{account}_{unit}" for account in ACCOUNTS for unit in UNITS]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the records of one ablation say.

    `runs` has a row for each arm, seed and run. Its `kind` decides what it counts as; its `role` is
    for readers: the kind, or what an auxiliary run's plan calls it, which may be any word. `evals`,
    `steps`, `notes`, `weights`, `probes` and `documents` are keyed by `run_id`. Losses are nats per
    token, `seconds` counts from the start of training, `weights.rows` are rows drawn in that step,
    `documents` are sums over the evaluated targets of each document, at the last step.
    """

    out_dir: Path
    name: str
    others: tuple[str, ...]
    """Names of the other ablations in this folder."""
    header: Json
    """ablations/<name>.json as it is."""
    run_headers: dict[str, Json]
    """run.json of every run that has one, by run id."""
    runs: pd.DataFrame
    evals: pd.DataFrame
    steps: pd.DataFrame
    notes: pd.DataFrame
    weights: pd.DataFrame
    probes: pd.DataFrame
    documents: pd.DataFrame


def ablations(out_dir: Path) -> list[str]:
    """Name the ablations of a folder, the most recently updated first."""
    updated = []
    for path in sorted((out_dir / "ablations").glob("*.json")):
        with suppress(SpecError):  # it is refused when it is the one that is asked for
            updated.append((str(_read_ablation(path).get("updated", "")), path.stem))
    return [name for _, name in sorted(updated, reverse=True)]


def load(out_dir: Path, name: str | None = None) -> Evidence:
    """Read one ablation and every run that it names; the default is the most recently updated."""
    names = ablations(out_dir)
    unreadable = sorted((out_dir / "ablations").glob("*.json"))
    if not names and name is None and unreadable:
        _read_ablation(unreadable[0])  # which says what is wrong with it
    if not names:
        raise SpecError(f"{out_dir} holds no ablation; `steelyard run SPEC --out {out_dir}` does")
    chosen = names[0] if name is None else name
    if chosen not in names and not (out_dir / "ablations" / f"{chosen}.json").exists():
        raise SpecError(f"no ablation {chosen!r} in {out_dir}; choose one of {', '.join(names)}")
    header = _read_ablation(out_dir / "ablations" / f"{chosen}.json")
    runs = _grid(header)
    headers: dict[str, Json] = {}
    problems: dict[str, tuple[str, str]] = {}
    collected = Collected()
    for run_id in dict.fromkeys(i for i in runs["run_id"] if isinstance(i, str)):
        try:
            headers[run_id] = json.loads((out_dir / "runs" / run_id / "run.json").read_bytes())
            records = read_records(out_dir / "runs" / run_id / "records.jsonl")
            collected.add(run_id, headers[run_id]["domains"], records)
        except FileNotFoundError:
            problems[run_id] = ("missing", "its run.json is not there")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"its files cannot be read: {type(error).__name__}: {error}"
            problems[run_id] = ("damaged", text)
    frames = collected.frames()
    return Evidence(
        out_dir=out_dir,
        name=chosen,
        others=tuple(other for other in names if other != chosen),
        header=header,
        run_headers=headers,
        runs=_with_state(runs, headers, problems, frames["evals"], header["probe_domains"]),
        **frames,
    )


def _read_ablation(path: Path) -> Json:
    try:
        header: Json = json.loads(path.read_bytes())
        schema = header.get("schema")
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{path}: unreadable ({error}); run the ablation again") from None
    if schema != SCHEMA:
        raise SpecError(
            f"{path} has schema {schema}, this steelyard reads {SCHEMA}; "
            "write the report with the version that ran it"
        )
    return header


def _grid(header: Json) -> pd.DataFrame:
    """List every run that the ablation asks for, with the state its runner last wrote down."""
    rows = []
    for arm, entry in header["arms"].items():
        same = {"arm": arm, "method": entry["method"], "control": bool(entry.get("control"))}
        for run in entry["runs"]:
            main = {"seed": run["seed"], "status": run["status"], "kind": MAIN, "role": MAIN}
            planned = {"plan_seconds": run.get("plan_seconds", 0.0)}
            rows.append(
                same | main | planned | {"run_id": run.get("run_id"), "reason": run.get("reason")},
            )
            # A plan may ask for one run twice; it trained once and is billed once.
            distinct = {a["run_id"]: a["role"] for a in run.get("auxiliary") or []}
            for run_id, role in distinct.items():
                asked = {"kind": AUXILIARY, "role": role, "status": None, "run_id": run_id}
                rows.append(same | main | asked)
            if longer := run.get("equal_compute"):
                told = {key: longer.get(key) for key in ("status", "run_id", "reason")}
                rows.append(same | main | told | {"kind": LONGER, "role": LONGER})
    columns = ["arm", "method", "control", "seed", "kind", "role", "status", "run_id", "reason"]
    columns += ["plan_seconds"]
    grid = pd.DataFrame(rows, columns=columns, dtype=object)  # so that None stays None
    return grid.astype({"control": bool, "seed": int})


def _with_state(
    runs: pd.DataFrame,
    headers: dict[str, Json],
    problems: dict[str, tuple[str, str]],
    evals: pd.DataFrame,
    domains: list[str],
) -> pd.DataFrame:
    """Add costs and the final word on each run: its own run.json knows better than the grid."""
    complete = _complete(headers, evals, domains)
    states, costs = [], []
    for row in runs.itertuples():
        header = headers.get(row.run_id, {}) if isinstance(row.run_id, str) else {}
        status, reason = header.get("status", row.status), header.get("reason") or row.reason
        if row.run_id in problems:
            # A run that failed before it wrote anything keeps its own reason.
            stopped = row.status in ("pending", "running", "failed", "interrupted")
            status, reason = (row.status, row.reason) if stopped else problems[row.run_id]
        elif status == "finished" and row.kind != AUXILIARY:
            problem = None
            if row.run_id not in complete:
                own = evals[evals["run_id"] == row.run_id]
                problem = _incomplete(own, header.get("num_steps"), domains)
            status, reason = ("damaged", problem) if problem else ("finished", None)
        states.append((status, reason))
        accounts = header.get("costs") or {}
        costs.append([_number(accounts.get(a, {}).get(u)) for a in ACCOUNTS for u in UNITS])
    runs[["status", "reason"]] = pd.DataFrame(states, columns=["status", "reason"], dtype=object)
    return pd.concat([runs, pd.DataFrame(costs, columns=COST_COLUMNS, dtype=float)], axis=1)


def _complete(headers: dict[str, Json], evals: pd.DataFrame, domains: list[str]) -> set[str]:
    """Return the runs that have a finite held-out loss on every domain at their last step."""
    lengths = {run_id: header.get("num_steps") for run_id, header in headers.items()}
    last = evals["run_id"].astype(object).map(lengths).to_numpy() == evals["step"].to_numpy()
    finite = np.isfinite(evals[["nats_per_token", "bits_per_byte"]]).all(axis=1)
    is_final = last & finite & (evals["split"] == "heldout") & evals["domain"].isin(domains)
    counts = evals[is_final].groupby("run_id", observed=True).size()
    return set(counts.index[counts == len(domains)].astype(str))


def _incomplete(evals: pd.DataFrame, num_steps: int | None, domains: list[str]) -> str | None:
    """Say why a finished run has no usable final evaluation, or None if it has one."""
    if evals.empty:
        return "it says finished but has no held-out evaluation"
    last = evals[(evals["split"] == "heldout") & (evals["step"] == num_steps)]
    missing = [domain for domain in domains if domain not in set(last["domain"])]
    if missing:
        return f"no held-out evaluation at step {num_steps} of {', '.join(missing)}"
    values = last[["nats_per_token", "bits_per_byte"]].to_numpy()
    if not np.isfinite(values).all():
        return f"a held-out loss at step {num_steps} is not finite"
    return None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
