"""Two results side by side, in a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports import notation
from reports.compare import Comparison, Row

_MAX_CHANGES = 12


def table(found: Comparison) -> RenderableType:
    """Return which is which, the arms, then what the specs differ in."""
    which = Text(f"A = {found.a.name}\nB = {found.b.name}")
    shown = Table(title=f"{found.a.metric}, held-out bits per byte", title_justify="left")
    shown.add_column("arm", min_width=12, overflow="fold")
    for name in ("A", "B", "B - A [95 % interval]", "seeds", "same run", "overhead"):
        shown.add_column(name, justify="right")
    shown.add_column("verdict")
    for row in found.rows:
        shown.add_row(*_cells(row))
    return Group(which, shown, _changes(found))


def _cells(row: Row) -> list[str]:
    pair = row.pair
    difference, seeds, same = "", "0", ""
    if pair is not None:
        interval = notation.interval(pair.low, pair.high)
        difference = f"{notation.signed(pair.mean)} {interval}".strip()
        seeds, same = str(pair.num_pairs), str(row.num_same)
    overheads = ["" if math.isnan(p) else notation.percent(p) for p in row.overheads]
    means = ["" if math.isnan(m) else notation.bits(m) for m in (row.mean_a, row.mean_b)]
    sides = (_both(*overheads), _both(*row.verdicts))
    return [row.arm, *means, difference, seeds, same, *sides]


def _both(a: str, b: str) -> str:
    """Return one word where both sides say the same."""
    return a if a == b else f"{a or '-'} → {b or '-'}"


def _changes(found: Comparison) -> Text:
    if not found.changes:
        return Text("the specs are the same" if found.a.spec and found.b.spec else "")
    lines = [f"{key}: {a or '(not there)'} -> {b or '(not there)'}" for key, a, b in found.changes]
    more = len(lines) - _MAX_CHANGES
    shown = [*lines[:_MAX_CHANGES], *([f"and {more} more"] if more > 0 else [])]
    return Text("the specs differ in\n  " + "\n  ".join(shown), style="dim")
