"""Studies in a terminal: how far they are, and what they found."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps import findings
from sweeps.study import Row
from sweeps.studyfile import Study

STATES = ("complete", "pruned", "failed", "running", "waiting")


def counted(rows: list[Row]) -> dict[str, int]:
    """Return how many slots are in each state; a trial that was tried again counts once."""
    last = {row.slot: row for row in rows if row.slot is not None}
    names = [row.state for row in last.values()]
    return {state: names.count(state) for state in STATES}


def num_ended(rows: list[Row]) -> int:
    """Return the slots whose last trial has ended: complete, pruned or failed."""
    counts = counted(rows)
    return counts["complete"] + counts["pruned"] + counts["failed"]


def status(study: Study, arms: dict[str, list[Row]]) -> Table:
    """Return one line for each arm."""
    table = Table(title="trials by state", title_justify="left")
    table.add_column("arm")
    for state in (*STATES, "retries", "lowest tuning loss"):
        table.add_column(state, justify="right")
    for arm, rows in arms.items():
        counts = counted(rows)
        slots = {row.slot for row in rows if row.slot is not None}
        retries = sum(row.slot is not None for row in rows) - len(slots)
        lowest = findings.best(study, rows)
        loss = "" if lowest is None else f"{lowest.values[0]:.4f}"
        table.add_row(arm, *(str(counts[state]) for state in STATES), str(retries), loss)
    return table


def best(arm: str, facts: dict[str, Any], has_front: bool) -> RenderableType:
    """Return an arm's best settings beside the spec's own, and what share each parameter has."""
    trials = {trial["number"]: trial for trial in facts["trials"]}
    if has_front and facts["front"]:
        return _front(arm, [trials[number] for number in facts["front"]])
    if facts["best"] is None:
        return Text(f"{arm}: no trial has completed at every seed yet")
    chosen = trials[facts["best"]]
    fanova = facts["importances"].get("fanova", {})
    title = f"{arm}: trial {chosen['number']}, tuning loss {chosen['values'][0]:.4f}"
    own = trials.get(facts["own"])
    if own is not None and own is not chosen:
        title += f" ({own['values'][0]:.4f} by the spec's own settings)"
    table = Table(title=title, title_justify="left")
    for name in ("setting", "spec's own", "best", "fANOVA"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for name, value in chosen["params"].items():
        share = f"{fanova[name]:.2f}" if name in fanova else ""
        table.add_row(name, shown(facts["defaults"].get(name, "")), shown(value), share)
    return table


def _front(arm: str, trials: list[dict[str, Any]]) -> RenderableType:
    names = list(trials[0]["params"])
    table = Table(title=f"{arm}: the front", title_justify="left")
    for name in ("trial", "loss", "overhead s", *(n.removeprefix("settings.") for n in names)):
        table.add_column(name, justify="right")
    for trial in trials:
        loss, seconds = trial["values"]
        values = [shown(trial["params"][name]) for name in names]
        table.add_row(str(trial["number"]), f"{loss:.4f}", f"{seconds:.2f}", *values)
    note = "no trial here is worse than another in both; promote one by --trial ARM=NUMBER"
    return Group(table, Text(note, style="dim"))


def shown(value: Any) -> str:
    """Return a setting's value, numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def runs(name: str, metric: str, found: list[dict[str, Any]], goal: str) -> Table:
    """Return the runs of a sweep without a server, best first, those without a value last."""
    sign = 1.0 if goal == "minimize" else -1.0
    key = lambda row: (row["value"] is None, sign * (row["value"] or 0.0))  # noqa: E731
    names = list(dict.fromkeys(n for row in found for n in row["params"]))
    table = Table(title=f"runs of {name}, best first", title_justify="left")
    for column in ("run", "state", metric, *(n.removeprefix("settings.") for n in names)):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for row in sorted(found, key=key):
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        settings = [shown(row["params"].get(n, "")) for n in names]
        table.add_row(row["run"], row["state"], value, *settings)
    return table
