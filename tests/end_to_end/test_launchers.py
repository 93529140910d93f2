"""A grid by a launcher's workers equals the local grid, bit for bit on a CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from .conftest import ARMS, Finished, Out, steelyard, write_spec
from .undisturbed import assert_same_run

ARGUMENTS = {"ray": ("--ray.cores=1",), "slurm": ("--slurm.cluster=local", "--slurm.minutes=5")}
PACKAGES = {"ray": "ray", "slurm": "submitit"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_two_workers_of_a_launcher_give_the_results_of_the_local_grid(
    name: str, finished: Finished, tmp_path: Path
) -> None:
    """Every run of every arm, auxiliary ones too: records less seconds, and checkpoints."""
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f'NOT TESTED: the {name} launcher; pip install "steelyard[{name}]"')
    arms = {label: ARMS[label] for label in ("uniform", "influence", "doremi")}
    spec = write_spec(tmp_path / "tiny.toml", arms, seeds=(0, 1))

    launcher = ("--launcher", name, "--jobs", 2, *ARGUMENTS[name])
    result = steelyard("run", spec, "--out", "out", *launcher, cwd=tmp_path)

    assert (result.returncode, result.stderr) == (0, "")
    assert "2 workers launched: " in result.stdout
    assert "report: out/report/tiny/report.html" in result.stdout
    out, compared = Out(tmp_path / "out"), set()
    for label in arms:
        for seed in (0, 1):
            cell, expected = out.cell("tiny", label, seed), finished.out.cell("tiny", label, seed)
            clock = {"plan_seconds": 0.0}
            assert {**cell, **clock} == {**expected, **clock}
            compared |= {cell["run_id"], *(run["run_id"] for run in cell["auxiliary"])}
    for run_id in compared:
        places = (out.folder, finished.out.folder)
        assert_same_run(*(place / "runs" / run_id for place in places))
    assert compared == out.run_ids()
    assert len(compared) == 10
