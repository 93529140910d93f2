"""`steelyard show`: which ablations and runs a folder holds, how far they are, who is at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.files import read_json
from harness.leases import Seen, open_leases
from harness.records import HEADER, RECORDS, read_records


def show(folder: Path, console: Console, leases: str | None = None) -> None:
    """Print a table of the ablations' cells, one of all runs, and one of who is at which.

    `leases` is the database that says so, where it is not the folder.
    """
    held = [seen for seen in open_leases(folder, leases).store.held() if not _is_gone(seen)]
    for path in sorted((folder / "ablations").glob("*.json")):
        console.print(_ablation_table(read_json(path)))
    headers = [read_json(path) for path in sorted((folder / "runs").glob(f"*/{HEADER}"))]
    if not headers:
        console.print(f"no runs in {folder}")
        return
    at_work = {seen.key.removeprefix("run-"): seen for seen in held}
    console.print(_run_table(folder, headers, at_work))
    if held:
        console.print(_worker_table(held))


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


def _worker_table(held: list[Seen]) -> Table:
    table = Table(title="workers", title_justify="left")
    for column in ("worker", "holds", "for", "last sign of life"):
        table.add_column(column)
    for seen in sorted(held, key=lambda one: (str(one.holder), one.key)):
        age = "" if seen.age is None else f"{seen.age:.0f} s ago"
        table.add_row(str(seen.holder or "?"), seen.key, Text(seen.about), age)
    return table


def _is_gone(seen: Seen) -> bool:
    return seen.holder is not None and seen.holder.is_gone


def _run_table(folder: Path, headers: list[dict[str, Any]], at_work: dict[str, Seen]) -> Table:
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
            Text(_state(header, at_work)),
            f"{_last_step(folder, header)}/{header['num_steps']}",
            f"{sum(cost['seconds'] for cost in costs):.1f}" if costs else "",
        )
    return table


def _state(header: dict[str, Any], at_work: dict[str, Seen]) -> str:
    """Return how a run is; one that says `running` and that nobody holds was killed."""
    if header["status"] != "running":
        return str(header["status"]) + (f": {header['reason']}" if header["reason"] else "")
    return "running" if header["run_id"] in at_work else "killed"


def _last_step(folder: Path, header: dict[str, Any]) -> int:
    if header["status"] == "finished":
        return int(header["num_steps"])
    records = read_records(folder / "runs" / header["run_id"] / RECORDS)
    return max((int(record["step"]) for record in records), default=0)
