"""What CONTRIBUTING.md and README.md show, run from a folder outside of the repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from baselines import METHODS
from harness.commands.methods import SECTIONS, documentation, papers, section
from tests.end_to_end.conftest import ARMS, ROOT, steelyard, write_spec


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_a_user_has_to_know(name: str) -> None:
    """Needs, cost, defaults, deviations, the paper's number, and what every setting is."""
    method = METHODS[name]

    for part in SECTIONS:
        assert section(method, part), part
    # influence weights of domains are this project's own; static mixtures are everyone's
    assert papers(method) or method.is_control or name in ("static", "influence")
    told = documentation(method)
    assert [f.name for f in fields(method) if f.name not in told] == []


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").glob("*.py")), ids=lambda p: p.stem)
def test_a_method_is_under_150_lines(path: Path) -> None:
    """One file each, that a reader takes in at a sitting."""
    assert len(path.read_text().splitlines()) < 150


def test_the_readme_names_every_method() -> None:
    """In its tables of methods and controls."""
    text = (ROOT / "README.md").read_text()

    assert [name for name in METHODS if f"`{name}`" not in text] == []


def test_the_readme_shows_the_same_five_lines() -> None:
    """What is run below is what stands there."""
    assert blocks("python")[1].strip() in (ROOT / "README.md").read_text()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder with the method's file."""
    method, _ = blocks("python")
    (tmp_path / "my_methods.py").write_text(method)
    return tmp_path


def test_the_method_is_short_and_runs_as_an_arm(outside: Path) -> None:
    """Under 30 lines; named as module:Class; its weights follow the losses."""
    method, (arm,) = blocks("python")[0], blocks("toml")
    assert len(method.splitlines()) < 30
    spec = write_spec(outside / "mine.toml", {"uniform": ARMS["uniform"]}, seeds=(0,))
    spec.write_text(spec.read_text() + "\n" + arm)

    result = steelyard("run", spec.name, cwd=outside, PYTHONPATH=f"{ROOT}{os.pathsep}{outside}")

    assert result.returncode == 0, result.stderr
    cell = json.loads((outside / "runs/ablations/mine.json").read_text())["arms"]["mine"]["runs"][0]
    lines = (outside / "runs/runs" / cell["run_id"] / "records.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    assert steps[0]["weights"] == pytest.approx([1 / 3] * 3)
    order = sorted(range(3), key=lambda k: steps[-2]["domain_losses"][k] or 0)
    assert sorted(range(3), key=lambda k: steps[-1]["weights"][k]) == order


@pytest.mark.slow
def test_five_lines_run_the_whole_suite_on_it(outside: Path) -> None:
    """In a process of its own, where only the folder and steelyard can be imported."""
    (outside / "test_mine.py").write_text(blocks("python")[1])
    assert len([line for line in blocks("python")[1].splitlines() if line]) <= 5
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{outside}"}

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    result = subprocess.run(
        command, cwd=outside, env=environment, capture_output=True, text=True, timeout=300
    )

    assert result.returncode == 0, result.stdout
    assert "13 passed" in result.stdout
