"""The health of factors in a terminal: a line for each module, and what was done about it.

Of either covariance: rank and size. Of what is inverted: the largest eigenvalue, the stable rank,
the condition number with the damping, and the share of directions below the damping.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.files import read_json
from harness.influence.factor_files import HEALTH

LONGEST = 40  # lines; a model of many layers has its whole table in health.json


def health_table(folder: Path) -> RenderableType:
    """Return the health of the factors in `folder`, as rich shows it."""
    health = read_json(folder / HEALTH)
    modules: dict[str, Any] = health["modules"]
    shared = _shared(list(modules))
    what = f"rows {health['rows']}, left out {health['skipped_rows']}"
    title = f"factors by module{' of ' + shared if shared else ''} ({what})"
    table = Table(title=title, title_justify="left")
    table.add_column("module", overflow="fold")
    has_sides = any("inputs" in found for found in modules.values())
    sides = ("inputs", "gradients", "below 0", "rung") if has_sides else ()
    for column in (*sides, "largest", "stable rank", "condition", "damped"):
        table.add_column(column, justify="right")
    for name in list(modules)[:LONGEST]:
        table.add_row(name.removeprefix(shared), *_cells(modules[name]))
    lines: list[RenderableType] = [table] if modules else []
    if len(modules) > LONGEST:
        lines.append(Text(f"and {len(modules) - LONGEST} modules more in {folder / HEALTH}"))
    for decision in health["decisions"]:
        told = f"{decision['action']}: {decision['what']}, because {decision['because']}"
        lines.append(Text(told, style="yellow"))
    return Group(*lines)


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
        cells.append(", ".join(dict.fromkeys((inputs["rung"], gradients["rung"]))))
    spectrum = found["spectrum"]
    return [
        *cells,
        f"{spectrum['max']:.2e}",
        f"{spectrum['stable_rank']:.1f}",
        f"{spectrum['condition_damped']:.1f}",
        f"{100 * spectrum['damped']:.1f}%",
    ]
