"""What a plan led to, remembered by content: a finished ablation is answered without torch."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import read_json, write_json
from harness.records import HEADER

if TYPE_CHECKING:
    from harness.spec import RunSpec


@dataclass(frozen=True)
class Carried:
    """A plan's main run, and the other distinct runs that it asked for, with their roles."""

    main: str
    auxiliary: tuple[tuple[str, str], ...]  # (run id, role), billed
    shown: tuple[str, ...] = ()  # run ids of other arms that the plan looked at, billed to those
    seconds: float = 0.0  # of the plan's own work beside its runs: fits, searches


def remember(out: Path, spec: RunSpec, carried: Carried) -> None:
    """Write down what the plan of `spec` led to."""
    (out / "plans").mkdir(exist_ok=True)
    pairs = [{"run_id": run_id, "role": role} for run_id, role in carried.auxiliary]
    content: dict[str, Any] = {"main": carried.main, "auxiliary": pairs}
    content |= {"shown": carried.shown, "seconds": carried.seconds}
    write_json(out / "plans" / f"{spec.run_id}.json", content)
    _failure(out, spec).unlink(missing_ok=True)


def remember_failure(out: Path, spec: RunSpec, reason: str) -> None:
    """Write down why the plan of `spec` came to nothing, for workers that wait for it."""
    (out / "plans").mkdir(exist_ok=True)
    told = {"reason": reason, "token": secrets.token_hex(8)}
    write_json(_failure(out, spec), told)


def recall_failure(out: Path, spec: RunSpec) -> dict[str, str] | None:
    """Return the `reason` of a plan's last failure, and a `token` that no other failure has."""
    found: dict[str, str] | None = read_json(_failure(out, spec))
    return found


def last_failure(out: Path, spec: RunSpec) -> str | None:
    """Return the token of a plan's last failure, None where it has not failed."""
    return (recall_failure(out, spec) or {}).get("token")


def _failure(out: Path, spec: RunSpec) -> Path:
    return out / "plans" / f"{spec.run_id}.failed.json"


def recall(out: Path, spec: RunSpec) -> Carried | None:
    """Return what the plan of `spec` led to, if all its runs are still there and finished."""
    plan = read_json(out / "plans" / f"{spec.run_id}.json")
    if plan is None:
        return None
    others = tuple((run["run_id"], run["role"]) for run in plan["auxiliary"])
    shown = tuple(plan.get("shown", ()))
    for run_id in (plan["main"], *(run_id for run_id, _ in others), *shown):
        header = read_json(out / "runs" / run_id / HEADER)
        if header is None or header["status"] != "finished":
            return None
    return Carried(plan["main"], others, shown, plan.get("seconds", 0.0))
