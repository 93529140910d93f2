"""A plan names what would run and what is done, trains nothing and writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from harness import cli, runner
from harness.api import Mixer
from harness.cli import find_method
from harness.commands import plan as module
from harness.commands.calibration import seconds_per_step
from harness.commands.plan import Forecast, forecast
from harness.commands.plan_table import print_plan
from harness.model import RowFlops, count_row_flops
from harness.spec import Ablation, RunSpec
from harness.specfile import load_ablation
from reports.power import prospects
from tests.tiny import MakeSpec

SPEC = """
name = "t"
target = "a"
baseline = "uniform"
seeds = [0, 1]
device = "cpu"
precision = "float32"
threads = 1
[domains.a]
kind = "synthetic"
[domains.b]
kind = "synthetic"
seed = 1
[batch]
rows = 8
tokens = 16
[budget]
steps = 10
[arms.uniform]
method = "static"
[arms.again]
method = "static"
[arms.doremi]
method = "doremi"
"""


@pytest.fixture
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a row's operations without a model: 100 forward, 200 backward."""
    monkeypatch.setattr("harness.model.count_row_flops", lambda *_: RowFlops(100.0, 200.0))


def ablation(tmp_path: Path, text: str = SPEC) -> Ablation:
    """Return a spec, loaded."""
    path = tmp_path / "t.toml"
    path.write_text(text)
    return load_ablation(path, [], find_method)


def finish(out: Path, run_id: str, spec: RunSpec, seconds: float = 6.0) -> None:
    """Pretend that a run has finished."""
    folder = out / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").touch()
    header = {
        "status": "finished",
        "spec": spec.canonical,
        "vocab_size": 4096,
        "num_steps": spec.num_steps,
        "costs": {"train": {"seconds": seconds, "flops": 1000.0 * spec.num_steps}},
    }
    (folder / "run.json").write_text(json.dumps(header))


def row(plan: Forecast, label: str, seed: int = 0) -> list[tuple[str, str | None, str]]:
    """Return role, id and state of a cell's runs."""
    cells = [c for c in plan.cells if (c.label, c.seed) == (label, seed)]
    return [(c.role, c.run_id, c.status) for c in cells]


@pytest.mark.usefixtures("_counted")
def test_everything_is_new_and_what_depends_on_results_is_later(tmp_path: Path) -> None:
    out = tmp_path / "out"

    plan = forecast(ablation(tmp_path), out, None, False)

    assert [(role, state) for role, _, state in row(plan, "uniform")] == [("main", "new")]
    assert [(role, state) for role, _, state in row(plan, "doremi")] == [
        ("reference", "new"),
        ("proxy", "new"),
        ("main", "later"),
    ]
    ids = [run_id for _, run_id, _ in row(plan, "doremi")]
    assert all(ids[:2])
    assert ids[2] is None
    assert len(plan.cells) == 2 + 2 + 6
    assert len(plan.distinct) == 2 + 6  # uniform and again ask for the same training
    assert plan.flops_of(plan.missing) == 8 * 10 * 8 * (100 + 200)
    assert plan.corpus is None
    assert not out.exists()


def foresee_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha: Callable[[Path], Any]
) -> list[tuple[str, str | None, str]]:
    """Finish DoReMi's runs of seed 0 and return its cell, with `alpha` as the proxy's sum."""
    asked, out = ablation(tmp_path), tmp_path / "out"
    for cell in forecast(asked, out, None, False).cells:
        if (cell.label, cell.seed) == ("doremi", 0) and cell.run_id is not None:
            finish(out, cell.run_id, cell.spec)
    result = SimpleNamespace(state={"alpha_sum": torch.tensor([1.0, 3.0])})
    monkeypatch.setattr(runner, "read_result", lambda folder: alpha(folder) or result)
    return row(forecast(asked, out, None, False), "doremi")


@pytest.mark.usefixtures("_counted")
def test_a_plan_goes_on_from_results_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = foresee_with(tmp_path, monkeypatch, lambda _: None)

    assert [state for *_, state in cell] == ["finished", "finished", "new"]
    assert cell[2][1] is not None


@pytest.mark.usefixtures("_counted")
def test_the_result_that_is_read_is_the_proxys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    cell = foresee_with(tmp_path, monkeypatch, read.append)

    assert [folder.name for folder in read] == [cell[1][1]]


def test_what_is_done_is_found_by_content_and_gives_the_rate(tmp_path: Path) -> None:
    """No model is built: the finished run has counted a step, 1000 operations in .6 s."""
    out, asked = tmp_path / "out", ablation(tmp_path, SPEC.partition("[arms.doremi]")[0])
    specs = module.resolve(asked, module.corpus_id(asked.corpus))
    first = specs["uniform", 0]
    finish(out, first.run_id, first)

    plan = forecast(asked, out, 2, False)

    assert row(plan, "uniform") == [("main", first.run_id, "finished")]
    assert row(plan, "again") == [("main", first.run_id, "finished")]
    assert row(plan, "uniform", 1)[0][2] == "new"
    assert len(plan.missing) == 1
    assert plan.rate is not None
    assert plan.flops_of(plan.missing) * plan.rate.seconds_per_flop == pytest.approx(6.0)


@dataclass(frozen=True)
class Failing(Mixer):
    """A method whose plan cannot be carried out."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Ask for a run, then fail."""
        run(spec.auxiliary("first"))
        raise KeyError("two\nlines")


@pytest.mark.usefixtures("_counted")
def test_a_plan_that_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"failing": Failing}
    path = tmp_path / "t.toml"
    path.write_text(SPEC.replace('method = "doremi"', 'method = "failing"'))
    asked = load_ablation(path, [], lambda name: methods.get(name) or find_method(name))

    plan = forecast(asked, tmp_path / "out", None, False)

    assert [(role, state) for role, _, state in row(plan, "doremi")] == [
        ("first", "new"),
        ("main", "later"),
    ]
    assert plan.problems == [r"arms.doremi: its plan fails: KeyError: 'two\nlines'"]


@pytest.mark.usefixtures("_counted")
@pytest.mark.parametrize("width", [80, 120])
def test_what_is_printed_fits_and_says_what_is_unknown(tmp_path: Path, width: int) -> None:
    asked = ablation(tmp_path)
    console = Console(file=StringIO(), width=width)

    print_plan(forecast(asked, tmp_path, None, False), prospects(asked, tmp_path), console)

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "8 of 8 distinct runs (4 main, 4 auxiliary), 10.2k tokens, 192k FLOPs" in words
    assert "time: unknown until a first run; --measure" in words
    assert "corpus: not built yet" in words
    assert "as uniform" in words
    assert "smallest effect: none" in words  # two seeds: whatever the effect
    assert "later: an id" in words
    assert "2 seeds and 2 tested methods cannot give a verdict" in words


@pytest.mark.usefixtures("_counted")
@pytest.mark.parametrize(
    ("spread", "seeds", "told"),
    [
        (math.nan, None, "how many seeds find such a difference is known once runs have finished"),
        (0.02, 35, "35 seeds find such a difference, at 80 % power (noise from finished runs)"),
        (9.0, None, "more than 100,000 seeds would find such a difference"),
    ],
)
def test_a_plan_says_how_many_seeds_find_a_difference_worth_having(
    tmp_path: Path, spread: float, seeds: int | None, told: str
) -> None:
    asked = ablation(tmp_path, SPEC.replace("seeds", "margin = 0.01\nseeds"))
    known = prospects(asked, tmp_path)._replace(spread=spread, margin_seeds=seeds)
    console = Console(file=StringIO(), width=120)

    print_plan(forecast(asked, tmp_path, None, False), known, console)

    words = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"margin: 0.01 bits per byte; {told}" in words


def test_a_tracker_that_run_would_refuse_is_told_of(tmp_path: Path) -> None:
    asked = replace(ablation(tmp_path), trackers=("nowhere",))

    assert "'nowhere' is unknown" in forecast(asked, tmp_path, None, False).problems[0]


def test_another_ablation_of_the_name_is_told_of(tmp_path: Path) -> None:
    out, asked = tmp_path / "out", ablation(tmp_path, SPEC.partition("[arms.again]")[0])
    specs = module.resolve(asked, module.corpus_id(asked.corpus))
    for spec in specs.values():
        finish(out, spec.run_id, spec)
    (out / "ablations").mkdir()
    other = {"corpus_id": "c", "model_id": "m"}
    other["spec"] = {"seeds": [], "arms": {}, "target": "b"}  # type: ignore[assignment]
    (out / "ablations" / "t.json").write_text(json.dumps(other))

    plan = forecast(asked, out, None, False)

    assert "holds another ablation 't'" in plan.problems[0]


def test_a_model_that_cannot_be_counted_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> RowFlops:
        raise ValueError("no such model")

    monkeypatch.setattr("harness.model.count_row_flops", refuse)

    plan = forecast(ablation(tmp_path), tmp_path / "out", None, False)

    assert math.isnan(plan.flops_of(plan.missing))


def test_steps_are_timed_where_it_is_asked(make_spec: MakeSpec) -> None:
    assert 0 < seconds_per_step(make_spec(num_steps=2), 512) < 30


def test_a_measured_rate_is_seconds_per_counted_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.commands.calibration.seconds_per_step", lambda *_: 3.0)
    asked = ablation(tmp_path, SPEC.partition("[arms.again]")[0])

    plan = forecast(asked, tmp_path / "out", None, True)

    row_flops = count_row_flops(asked.model, 4096, 16)
    assert plan.rate is not None
    assert plan.rate.seconds_per_flop == pytest.approx(3.0 / (8 * sum(row_flops)))


@pytest.mark.parametrize("out", ["t.toml", "t.toml/out"])
def test_a_folder_of_runs_that_is_a_file_is_refused(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablation(tmp_path)

    assert cli.main(["plan", str(tmp_path / "t.toml"), "--out", str(tmp_path / out)]) == 2
    told = capsys.readouterr().err
    assert told.endswith(f"{out}: cannot be read: Not a directory; give --out a folder\n")
    assert told.count("\n") == 1


def test_a_mistake_in_the_spec_comes_before_any_counting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.toml").write_text("nam = 1\n" + SPEC)

    assert cli.main(["plan", str(tmp_path / "t.toml")]) == 2
    assert "did you mean 'name'?" in capsys.readouterr().err
