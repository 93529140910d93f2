"""The subset of W&B's sweep files that runs without a server: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import SpecError
from sweeps.sweepfile import Hyperband, SweptParameter, load_sweep

SWEEP: dict[str, Any] = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "loss"},
    "run_cap": 3,
    "parameters": {"lr": {"min": 0.1, "max": 1.0}},
}


def written(folder: Path, **changes: Any) -> Path:
    """Write a sweep with changes; None takes a key away."""
    content = {k: v for k, v in {**SWEEP, **changes}.items() if v is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_sweep_without_a_name_has_its_files(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path))

    assert sweep.name == "mine"
    assert sweep.metric.goal == "minimize"
    assert load_sweep(written(tmp_path, name="other")).name == "other"


@pytest.mark.parametrize(
    ("parameter", "kind", "points"),
    [
        ({"values": [1, "a", None]}, None, [1, "a", None]),
        ({"value": 3}, None, [3]),
        ({"min": 1, "max": 3}, "int_uniform", [1, 2, 3]),
        ({"min": 1, "max": 3.0}, "uniform", None),
        ({"min": 1, "max": 5, "q": 2, "distribution": "q_uniform"}, "q_uniform", [1, 3, 5]),
        ({"min": 0.1, "max": 1, "distribution": "log_uniform_values"}, "log_uniform_values", None),
    ],
)
def test_a_parameter_is_what_wandb_takes_it_for(
    parameter: dict[str, Any], kind: str | None, points: list[Any] | None
) -> None:
    found = SweptParameter(**parameter)

    assert found.points() == points
    if kind is not None:
        assert found.kind == kind


def test_hyperband_begins_where_wandb_would() -> None:
    assert Hyperband(type="hyperband", min_iter=4).first == 4
    assert Hyperband(type="hyperband", max_iter=27, s=2).first == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "custom"}, "method: input should be 'grid', 'random' or 'bayes', got 'custom'"),
        ({"metric": None}, "metric: is missing; add it"),
        ({"program": None}, "program: is missing, and the command needs it; add it"),
        ({"controller": {"type": "local"}}, "controller: unknown key; remove it"),
        ({"metric": {"name": "a", "goal": "least"}}, "metric.goal: input should be 'minimize' or"),
        ({"name": "a b"}, "name: must have neither / nor spaces, got 'a b'"),
        ({"command": ["${args_dict}"]}, "command: unknown macro ${args_dict}; choose from ${env}"),
        ({"parameters": {}}, "parameters: dictionary should have at least 1 item"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameters.a.parameters: unknown key; remove"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a: min and max belong together; give"),
        (
            {"parameters": {"a": {"values": [[1]]}}},
            "parameters.a: a value must be one number, text",
        ),
        (
            {"parameters": {"a": {"min": "1e-4", "max": 1.0}}},
            "parameters.a: min must be a number, got '1e-4'; YAML wants a point in it: 1.0e-4",
        ),
        (
            {"parameters": {"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}},
            "parameters.a: a log scale needs min above 0, got 0",
        ),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a: min must be below max, got 2"),
        (
            {"parameters": {"a": {"mu": 2, "distribution": "normal"}}},
            "parameters.a.mu: unknown key; remove it",
        ),
        ({"method": "grid"}, "parameters.lr: a grid over uniform has no end; give values"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: min_iter is missing; give"),
        ({"run_cap": 0}, "run_cap: input should be greater than 0, got 0"),
    ],
)
def test_anything_else_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError) as raised:
        load_sweep(written(tmp_path, **changes))

    assert f"mine.yaml: {told}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is no YAML: while parsing"),
        ("- a", "must be a table of keys, got ['a']"),
        ("", "must be a table of keys, got None"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as raised:
        load_sweep(path)

    assert f"sweep.yaml: {told}" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(SpecError, match="no such file; give the path of a W&B sweep"):
        load_sweep(tmp_path / "none.yaml")
