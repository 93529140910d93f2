"""The table of factors' health at the widths that terminals have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.attribution.health_table import LEGEND, health_table

PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
LLAMA = [f"model.layers.{i}.{part}" for i in (0, 31) for part in PARTS]
OTHERS = ["encoder.layer.11.attention.output.dense", "cls.predictions.transformations.dense"]


def _side(size: int, rung: str = "float64") -> dict[str, Any]:
    return {"rank": size - 3, "size": size, "negative": 2, "rung": rung}


def _told(names: list[str], width: int, folder: Path, **rungs: str) -> str:
    spectrum = {"max": 1.234e-3, "stable_rank": 1234.5, "condition_damped": 12345.6, "damped": 1.0}
    modules = {
        name: {
            "inputs": _side(11008),
            "gradients": _side(11008, rungs.get(name.rpartition(".")[2], "float64")),
            "spectrum": spectrum,
        }
        for name in names
    }
    health = {"rows": 20_000, "skipped_rows": 0, "modules": modules, "decisions": []}
    health |= {"damping": 0.1, "damping_unit": "relative"}
    said = io.StringIO()
    Console(file=said, width=width).print(health_table(health, folder, width))
    return said.getvalue()


@pytest.mark.parametrize("names", [LLAMA, OTHERS, LLAMA[:1]])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_numbers_are_whole_and_names_break_at_dots(
    names: list[str], width: int, tmp_path: Path
) -> None:
    text = _told(names, width, tmp_path)

    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    numbers = ["11005/11008", "11005/11008", "4", "1.2e-03", "1234.5", "1.23e+04", "100.0%"]
    line = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    rule = next(i for i, told in enumerate(lines) if set(told) == {line})
    rows = [told.split() for told in lines[rule + 1 : -len(LEGEND)]]
    assert lines[-len(LEGEND) :] == list(LEGEND)
    assert [row[1:] for row in rows].count(numbers) == len(names)
    shared = "model.layers." if names == LLAMA else ""
    whole = "".join(name.removeprefix(shared) for name in names)
    assert "".join(row[0] for row in rows) == whole


def test_at_120_columns_each_module_is_one_line(tmp_path: Path) -> None:
    text = _told(LLAMA, 120, tmp_path)

    assert "factors by module of model.layers. (rows 20000, left out 0)" in text
    assert all(f"\n{name.removeprefix('model.layers.')} " in text for name in LLAMA)


def test_another_rung_is_named_and_the_usual_one_told_once(tmp_path: Path) -> None:
    usual = _told(LLAMA, 80, tmp_path)
    assert usual.count("float64") == 1

    text = _told(LLAMA, 200, tmp_path, q_proj="ridge 1e-9", o_proj="svd")

    assert "rung of the decompositions: float64; another: 0.self_attn.q_proj gradients " in text
    assert "(ridge 1e-9), 0.self_attn.o_proj gradients (svd), " in text
    assert " and 1 more\n" in text
