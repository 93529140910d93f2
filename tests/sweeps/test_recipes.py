"""The recipes for schedulers stay in step with the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.arguments import parse
from harness.cli import find_method
from harness.forms import COMMANDS
from harness.leases.opening import VARIABLE
from harness.specfile import load_ablation

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "sweeps/recipes"


def kubernetes() -> list[str]:
    """Return the command of the container, after looking at what it stands on."""
    job: Any = yaml.safe_load((RECIPES / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert spec["completions"] == spec["parallelism"] > 1
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    return list(container["args"])


def skypilot() -> list[str]:
    """Return the command of the task, after looking at what it stands on."""
    task: Any = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert task.keys() <= {"name", "num_nodes", "workdir", "resources", "volumes", "setup", "run"}
    words = shlex.split(task["run"])
    assert any(words[-1].startswith(place) for place in task["volumes"])
    return words


def slurm() -> list[str]:
    """Return the command of the batch script."""
    *_, last = (RECIPES / "slurm.sh").read_text().splitlines()
    srun, *words = shlex.split(last)
    assert srun == "srun"
    return words


@pytest.mark.parametrize("recipe", [kubernetes, skypilot, slurm])
def test_a_recipe_starts_a_worker_that_the_command_line_takes(recipe: Any) -> None:
    """Its options parse, and its spec is there and can be read."""
    steelyard, work, *rest = recipe()
    assert (steelyard, work) == ("steelyard", "work")

    command: Any = parse(COMMANDS["work"], rest, prog="steelyard work")

    assert load_ablation(ROOT / command.spec, [], find_method).name == "demo"
    assert command.out.is_absolute()


def test_every_recipe_is_tried_here_and_names_what_exists() -> None:
    names = {path.name for path in RECIPES.iterdir()}

    assert names == {"kubernetes.yaml", "skypilot.yaml", "slurm.sh"}
    told = "".join(path.read_text() for path in RECIPES.iterdir())
    assert VARIABLE in told
