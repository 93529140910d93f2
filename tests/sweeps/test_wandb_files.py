"""The sweep files in sweeps/wandb are what the studies say, and what W&B and the harness read."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import find_method
from harness.errors import SpecError
from sweeps.options import read_settings
from sweeps.studyfile import Study, load_study
from sweeps.sweepfile import load_sweep
from sweeps.wandb_files import sweep, write_sweeps
from tests.wandb_sweep_server import draw_value

from .tiny_study import STUDY, tiny_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "sweeps/studies").glob("*.toml"))
FILES = sorted((ROOT / "sweeps/wandb").iterdir())
SPACE = """
method = "influence"
[parameters]
"settings.every" = { type = "int", low = 2, high = 8, log = true }
"settings.rows" = { type = "int", low = 2, high = 8, step = 3 }
"settings.probe_rows" = { type = "int", low = 2, high = 8 }
"settings.temperature" = { type = "float", low = 0.1, high = 10.0, log = true }
"settings.floor" = { type = "float", low = 0.0, high = 0.1 }
"settings.strength" = { type = "float", low = 0.5, high = 5.5, step = 0.5 }
"settings.estimator.difference" = { type = "choice", values = ["one_sided", "central"] }
"""
ONE_ARM = '[arms.influence]\nspace = "influence.toml"\n'


@cache
def study_of(name: str) -> Study:
    """Return one of our studies, read in the repository's root, by a relative path."""
    return load_study(Path("sweeps/studies") / f"{name}.toml", find_method)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_files_are_those_that_the_study_writes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    written = write_sweeps(study_of(path.stem), tmp_path)

    there = {file.name: file.read_text() for file in FILES if file.name.startswith(f"{path.stem}.")}
    assert {file.name for file in written} == set(there)
    for file in written:
        new = file.read_text().replace(f"--to {tmp_path}", "--to sweeps/wandb")
        assert there[file.name] == new, f"steelyard sweep write sweeps/studies/{path.name}"


def test_no_file_is_without_a_study_and_every_way_to_search_has_an_example() -> None:
    assert {file.name.split(".")[0] for file in FILES} == {path.stem for path in STUDIES}
    published = {path.stem for path in (ROOT / "sweeps").glob("*.toml")}
    assert {path.stem for path in STUDIES} == published  # one for every comparison of ours
    assert {load_sweep(file).method for file in FILES} == {"bayes", "random", "grid"}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_a_server_draws_is_a_trial(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option that W&B's agent could pass is one that `steelyard study trial` takes."""
    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(file.read_text())
    env, steelyard, *words, path, arm, args = content["command"]
    study = study_of(Path(path).stem)

    assert (env, steelyard, args) == ("${env}", "steelyard", "${args}")
    assert [*words, path] == ["study", "trial", str(study.path)]
    assert content["metric"] == {"name": "tuning/objective", "goal": "minimize"}
    assert content["run_cap"] == study.asked.trials
    rng = random.Random(0)
    for _ in range(20):
        drawn = {name: draw_value(p, rng) for name, p in content["parameters"].items()}
        options = [f"--{name}={value}" for name, value in drawn.items()]
        read_settings(study.parameters(arm), None, options)


def test_every_kind_of_parameter_has_wandbs_name(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, arms=ONE_ARM, influence=SPACE)

    assert sweep(study, "influence")["parameters"] == {
        "settings.every": {"distribution": "q_log_uniform_values", "min": 2, "max": 8, "q": 1},
        "settings.rows": {"values": [2, 5, 8]},
        "settings.probe_rows": {"distribution": "int_uniform", "min": 2, "max": 8},
        "settings.temperature": {"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
        "settings.floor": {"distribution": "uniform", "min": 0.0, "max": 0.1},
        "settings.strength": {"values": [0.5 * k for k in range(1, 12)]},
        "settings.estimator.difference": {"values": ["one_sided", "central"]},
    }


def test_a_grid_has_few_points_on_each_range_and_no_more_than_trials(tmp_path: Path) -> None:
    grid = ONE_ARM + 'wandb = "grid"\n'
    many = STUDY.replace("trials = 3", "trials = 1458")
    study = tiny_study(tmp_path, head=many, arms=grid, influence=SPACE)
    points = {name: p["values"] for name, p in sweep(study, "influence")["parameters"].items()}

    assert points == {
        "settings.every": [2, 4, 8],
        "settings.rows": [2, 5, 8],
        "settings.probe_rows": [2, 5, 8],
        "settings.temperature": [0.1, 1.0, 10.0],
        "settings.floor": [0.0, 0.05, 0.1],
        "settings.strength": [0.5, 3.0, 5.5],
        "settings.estimator.difference": ["one_sided", "central"],
    }
    few = tiny_study(tmp_path, arms=grid, influence=SPACE)
    with pytest.raises(SpecError, match=re.escape("arms.influence.grid: gives 1458 points")):
        write_sweeps(few, tmp_path / "sweeps")
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("pruner", "expected"),
    [
        ("none", None),
        ("median", {"type": "hyperband", "min_iter": 2, "eta": 2}),
        ("hyperband", {"type": "hyperband", "min_iter": 1, "eta": 3}),
    ],
)
def test_runs_end_early_where_the_study_prunes_between_evaluations(
    tmp_path: Path, pruner: str, expected: dict[str, Any] | None
) -> None:
    study = tiny_study(tmp_path, head=f'{STUDY}pruner = "{pruner}"\n')

    assert sweep(study, "influence").get("early_terminate") == expected
