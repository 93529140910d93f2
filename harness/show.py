"""`steelyard show`: which ablations and runs a folder holds, and how far they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.files import read_json
from harness.records import HEADER, LOCK, RECORDS, read_records


def show(folder: Path, console: Console) -> None:
    """Print a table of the ablations' cells, then one of all runs."""
    for path in sorted((folder / "ablations").glob("*.json")):
        console.print(_ablation_table(read_json(path)))
    headers = [read_json(path) for path in sorted((folder / "runs").glob(f"*/{HEADER}"))]
    if not headers:
        console.print(f"no runs in {folder}")
        return
    console.print(_run_table(folder, headers))


def _ablation_table(content: dict[str, Any]) -> Table:
    table = Table(title=f"ablation {content['name']}", title_justify="left")
    for column in ("arm", "method", "finished", "not finished"):
        table.add_column(column)
    for label, arm in content["arms"].items():
        finished = sum(cell["status"] == "finished" for cell in arm["runs"])
        others = [
            f"seed {c['seed']} {c['status']}" + (f": {c['reason']}" if c["reason"] else "")
            for c in arm["runs"]
            if c["status"] != "finished"
        ]
        table.add_row(
            label, arm["method"], f"{finished}/{len(arm['runs'])}", Text("\n".join(others))
        )
    return table


def _run_table(folder: Path, headers: list[dict[str, Any]]) -> Table:
    table = Table(title="runs", title_justify="left")
    for column in ("run", "mixer", "seed", "state", "step", "seconds"):
        table.add_column(
            column, justify="right" if column in ("seed", "step", "seconds") else "left"
        )
    for header in headers:
        spec, costs = header["spec"], header["costs"].values()
        table.add_row(
            header["run_id"],
            spec["mixer"]["class"].rsplit(":", 1)[-1],
            str(spec["seed"]),
            Text(_state(folder / "runs" / header["run_id"], header)),
            f"{_last_step(folder, header)}/{header['num_steps']}",
            f"{sum(cost['seconds'] for cost in costs):.1f}" if costs else "",
        )
    return table


def _state(folder: Path, header: dict[str, Any]) -> str:
    """Return how a run is; one that says `running` and that no process holds was killed."""
    if header["status"] != "running":
        return str(header["status"]) + (f": {header['reason']}" if header["reason"] else "")
    try:
        with FileLock(folder / LOCK, timeout=0):
            return "killed"
    except (Timeout, OSError):
        return "running"


def _last_step(folder: Path, header: dict[str, Any]) -> int:
    if header["status"] == "finished":
        return int(header["num_steps"])
    records = read_records(folder / "runs" / header["run_id"] / RECORDS)
    return max((int(record["step"]) for record in records), default=0)
