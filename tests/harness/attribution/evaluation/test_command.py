"""`steelyard attribute evaluate`: from a TOML to a page, found again, and resumed after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness import attribution_forms as forms
from harness.attribution.commands import carry_out
from harness.attribution.desk import load_attribution
from harness.errors import SpecError
from harness.files import read_json
from tests.harness.attribution.conftest import TinyRun

ROOT = Path(__file__).parents[4]
SPEC = """
name = "{name}"
run = "{run}"

[factors]
modules = ["linear"]
fitter = "hooks"
data_partitions = 1

[queries]
kind = "split"
rows = 4

[scores]
estimators = ["ekfac", "grad_cos"]

[evaluate]
parts = {parts}
jobs = 1
subsets = 4
replicas = 2
prompts = 2
max_new_tokens = 4
"""


def spec_of(tiny_run: TinyRun, folder: Path, parts: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(SPEC.format(name=f"cli-{folder.name}", run=tiny_run.folder, parts=parts))
    training = forms.AttributeTrain(spec=path, out=tiny_run.out)
    assert carry_out(training, (), "x", Console(width=200)) == 0
    return path


def test_a_page_and_a_summary_come_of_it(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(tiny_run, tmp_path, '["lds", "tail_patch", "answers"]')
    command = forms.AttributeEvaluate(spec=spec, out=tiny_run.out, runs=(str(tiny_run.folder),))
    console = Console(width=200)

    with pytest.raises(SpecError, match="is judged already; leave it out"):
        carry_out(command, (), "x", console)
    command = forms.AttributeEvaluate(spec=spec, out=tiny_run.out)
    assert carry_out(command, (), "x", console) == 0

    told = capsys.readouterr().out
    for label in ("ekfac", "grad_cos", "similarity", "bm25", "random"):
        assert f"- lds: {label} " in told
        assert f"- tail_patch: {label} " in told
    assert "- answers: fine-tuned exact" in told
    page = Path(told.rsplit("evaluation: ", 1)[1].strip())
    assert "Do scores predict" in page.read_text()
    assert carry_out(command, (), "x", console) == 0
    assert "lds: found measured" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(tiny_run: TinyRun, tmp_path: Path) -> None:
    spec = spec_of(tiny_run, tmp_path, '["lds"]')
    steelyard = [sys.executable, "-m", "harness.cli", "attribute", "evaluate", str(spec)]
    steelyard += ["--out", str(tiny_run.out), "--evaluate.seed", "5"]
    losses = tiny_run.out / "attribution" / f"cli-{tmp_path.name}" / "evaluation/losses"
    runs = tiny_run.out / "runs"
    before = {path.name for path in runs.iterdir()}
    process = subprocess.Popen(steelyard, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len({p.name for p in runs.iterdir()} - before) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(losses.rglob("*.json"))
    new = [path for path in runs.iterdir() if path.name not in before]
    headers = {path: read_json(path / "run.json") or {} for path in new}
    done = [path for path, header in headers.items() if header.get("status") == "finished"]
    assert len(done) >= 2
    kept = {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in done}

    found = subprocess.run(steelyard, capture_output=True, text=True, timeout=300, check=True)

    assert "lds: ekfac" in found.stdout
    assert len(list(losses.rglob("*.json"))) == 8
    assert {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in done} == kept


@pytest.mark.parametrize("name", ["lds_patents", "lds_embedded"])
def test_the_published_tables_are_specs(name: str) -> None:
    spec = load_attribution(ROOT / f"sweeps/attribution/{name}.toml", (), "x")

    assert "lds" in spec.evaluate.parts
    assert spec.evaluate.subsets >= 40
    assert {"ekfac", "grad_cos", "directional", "influcoder"} <= set(spec.scores.estimators)
    assert set(spec.evaluate.baselines) == {"similarity", "bm25", "random"}
    assert spec.training.attribute == "last"
