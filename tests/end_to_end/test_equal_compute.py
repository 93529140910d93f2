"""The baseline once more, at the compute that each method has used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import ARMS, Out, steelyard, write_spec

pytestmark = pytest.mark.slow

LABELS = {label: ARMS[label] for label in ("uniform", "half", "influence", "doremi")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the tiny ablation was run with the baseline at equal compute."""
    folder = tmp_path_factory.mktemp("equal")
    spec = write_spec(folder / "tiny.toml", LABELS, head="equal_compute = true")
    result = steelyard("run", spec.name, "--out", "out", "--jobs", 2, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "uniform at the methods' compute" in result.stdout
    return folder


def test_the_baseline_gets_the_steps_that_the_overhead_would_have_bought(folder: Path) -> None:
    out = Out(folder / "out")
    for label in ("influence", "doremi"):
        for seed in (0, 1):
            cell = out.cell("tiny", label, seed)
            main = out.header(cell["run_id"])
            others = [out.header(run["run_id"])["costs"] for run in cell["auxiliary"]]
            overhead = main["costs"]["mixer"]["flops"] + sum(
                costs["train"]["flops"] + costs["mixer"]["flops"] for costs in others
            )
            bought = round(overhead / (main["costs"]["train"]["flops"] / 12))

            longer = cell["equal_compute"]

            assert bought > 0
            assert longer["num_steps"] == 12 + bought
            assert longer["status"] == "finished"
            header = out.header(longer["run_id"])
            assert header["num_steps"] == 12 + bought
            assert header["spec"]["seed"] == seed
            assert header["spec"]["mixer"]["class"].endswith(":Static")
            spent = header["costs"]["train"]["flops"]
            asked = main["costs"]["train"]["flops"] + overhead
            assert spent == pytest.approx(asked, rel=0.5 / 12)  # to the nearest step
            last = [r for r in out.records(longer["run_id"], "eval") if r["step"] == 12 + bought]
            assert {record["split"] for record in last} == {"heldout"}


def test_doremi_buys_the_baseline_more_than_twice_its_steps(folder: Path) -> None:
    """Reference, proxy, and a forward of the reference on every row of the proxy: 7/3 runs."""
    longer = Out(folder / "out").cell("tiny", "doremi", 0)["equal_compute"]

    assert longer["num_steps"] == 12 + 28


def test_what_costs_nothing_has_no_longer_baseline(folder: Path) -> None:
    out = Out(folder / "out")

    assert "equal_compute" not in out.cell("tiny", "half", 0)
    assert "equal_compute" not in out.cell("tiny", "uniform", 0)


def test_running_again_trains_nothing_and_says_the_same(folder: Path) -> None:
    out = Out(folder / "out")
    before, ids = out.ablation("tiny")["arms"], out.run_ids()

    again = steelyard("run", "tiny.toml", "--out", "out", cwd=folder)

    assert again.returncode == 0, again.stderr
    assert out.run_ids() == ids
    assert out.ablation("tiny")["arms"] == before


def test_the_report_compares_at_equal_compute_too(folder: Path) -> None:
    text = (folder / "out/report/tiny/report.md").read_text()
    html = (folder / "out/report/tiny/report.html").read_text()

    assert "equal compute" in text.lower()
    assert "equal compute" in html.lower()
    figures = json.loads((folder / "out/report/tiny/figures.json").read_text())
    assert figures
