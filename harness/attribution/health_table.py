"""The health of factors in a terminal: a line for each module, and what was done about it.

Of either covariance: rank and size. Of what is inverted: the largest eigenvalue, the stable rank,
the condition number with the damping, and the share of directions below the damping.

It is read at 80 columns, so nothing stands in it twice: what all names begin with, and the
rung that nearly all covariances were decomposed on, are told above it. A name that finds no room
beside its numbers goes on in the next line, broken at its dots.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.influence.factor_files import HEALTH

LONGEST = 40  # lines; a model of many layers has its whole table in health.json
NARROWEST = 10  # columns for a name; below 80 columns numbers are cut
LEGEND = (
    "inputs, gradients: rank/size of the module's two covariances",
    "below 0: their eigenvalues that are negative, by rounding",
    "damped condition: largest over smallest with the damping added to both",
    "damped: share of directions whose eigenvalue is below the damping",
)
NAMED = 3  # modules of another rung that are named


def health_table(health: dict[str, Any], folder: Path, width: int) -> RenderableType:
    """Return the health of the factors in `folder` as rich shows it on `width` columns."""
    modules: dict[str, Any] = health["modules"]
    shared = _shared(list(modules))
    lines: list[RenderableType] = []
    if modules:
        what = f"rows {health['rows']}, left out {health['skipped_rows']}"
        of = f" of {shared}" if shared else ""
        lines = [Text(f"factors by module{of} ({what})", style="italic"), *_rungs(modules, shared)]
        lines.append(Text(_damping(health)))
        lines.append(_table(modules, shared, width))
        has_sides = any("inputs" in found for found in modules.values())
        lines += [Text(told, style="dim") for told in (LEGEND if has_sides else LEGEND[2:])]
    if len(modules) > LONGEST:
        lines.append(Text(f"and {len(modules) - LONGEST} modules more in {folder / HEALTH}"))
    for decision in health["decisions"]:
        told = f"{decision['action']}: {decision['what']}, because {decision['because']}"
        lines.append(Text(told, style="yellow"))
    return Group(*lines)


def _damping(health: dict[str, Any]) -> str:
    """Say which damping the columns are of: an estimator can have one of its own."""
    of = " of each module's mean eigenvalue" if health["damping_unit"] == "relative" else ""
    return f"damping, of [factors]: {health['damping']:g}{of}"


def _table(modules: dict[str, Any], shared: str, width: int) -> Table:
    numbers = _empty(modules)
    shown = list(modules)[:LONGEST]
    for name in shown:
        numbers.add_row("", *_cells(modules[name]))
    room = width - _width(numbers)
    table = _empty(modules)
    for name in shown:
        folded = _folded(name.removeprefix(shared), max(room, NARROWEST))
        table.add_row(folded, *_cells(modules[name]))
    return table


def _empty(modules: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("module", no_wrap=True)
    has_sides = any("inputs" in found for found in modules.values())
    sides = ("inputs", "gradients", "below\n0") if has_sides else ()
    for column in (*sides, "largest", "stable\nrank", "damped\ncondition", "damped"):
        table.add_column(column, justify="right", no_wrap=True, vertical="top")
    return table


def _width(table: Table) -> int:
    """Return how wide a table is beside its names."""
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum - len("module")


def _folded(name: str, width: int) -> str:
    """Return a name in lines of at most `width`, broken before dots, else where it must be."""
    lines = [""]
    for part in re.findall(r"\.?[^.]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line[i : i + width] for line in lines for i in range(0, len(line), width))


def _rungs(modules: dict[str, Any], shared: str) -> list[Text]:
    """Say on which rung of the ladder covariances were decomposed, and which on another."""
    found = {
        f"{name.removeprefix(shared)} {side}": own[side]["rung"]
        for name, own in modules.items()
        for side in ("inputs", "gradients")
        if side in own
    }
    if not found:
        return []
    usual = Counter(found.values()).most_common(1)[0][0]
    told = f"rung of the decompositions: {usual}"
    others = [f"{where} ({rung})" for where, rung in found.items() if rung != usual]
    if not others:
        return [Text(told)]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return [Text(f"{told}; another: {', '.join(others[:NAMED])}{more}", style="yellow")]


def _shared(names: list[str]) -> str:
    """Return what all names begin with, up to a dot; nothing of one name alone."""
    parts = [name.split(".") for name in names]
    together = takewhile(lambda some: len(set(some)) == 1, zip(*parts, strict=False))
    return "".join(f"{some[0]}." for some in together) if len(names) > 1 else ""


def _cells(found: dict[str, Any]) -> list[str]:
    cells = []
    if "inputs" in found:
        inputs, gradients = found["inputs"], found["gradients"]
        cells += [f"{side['rank']}/{side['size']}" for side in (inputs, gradients)]
        cells.append(str(inputs["negative"] + gradients["negative"]))
    spectrum = found["spectrum"]
    return [
        *cells,
        f"{spectrum['max']:.1e}",
        f"{spectrum['stable_rank']:.1f}",
        f"{spectrum['condition_damped']:.3g}",
        f"{100 * spectrum['damped']:.1f}%",
    ]
