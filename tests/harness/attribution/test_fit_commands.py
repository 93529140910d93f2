"""`attribute fit` and `inspect` as the command line calls them, on a finished run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from harness.attribution import commands
from harness.attribution.commands import carry_out
from harness.attribution_forms import (
    GROUPS,
    AttributeFit,
    AttributeInspect,
    AttributeRun,
    AttributeTop,
    AttributeTrain,
    Command,
)
from harness.errors import SpecError


def write(tiny_run: Any, folder: Path) -> tuple[Path, Path]:
    """Write a file that fits factors of a run; return it, and a folder for what comes of it."""
    spec = folder / "a.toml"
    spec.write_text(
        f"name = 'x'\nrun = {json.dumps(str(tiny_run.folder))}\n"
        "[factors]\nfitter = 'hooks'\nrows = 20\n"
    )
    return spec, folder / "out"


def do(command: Any, *overrides: str) -> str:
    """Carry out a command; return what it says."""
    said = io.StringIO()
    assert carry_out(command, overrides, "p", Console(file=said, width=200)) == 0
    return said.getvalue()


def test_factors_are_fitted_and_looked_at(tiny_run: Any, tmp_path: Path) -> None:
    spec, out = write(tiny_run, tmp_path)
    do(AttributeTrain(spec=spec, out=out))
    with pytest.raises(SpecError, match="no factors; run `steelyard attribute fit`"):
        do(AttributeInspect(spec=spec, out=out))
    told = do(AttributeFit(spec=spec, out=out, on_nonfinite="mask"))
    assert "ekfac by hooks: 20 rows, 4 modules, 4 x 1 parts" in told
    assert told.count("mlp.c_") == 4
    assert "factors found" in do(AttributeFit(spec=spec, out=out))
    told = do(AttributeInspect(spec=spec, out=out, layers=(r"h\.1\.mlp\.c_fc",)))
    assert "- Fitted on 20 rows; 0 left out." in told
    page = Path(told.rpartition("pictures: ")[2].strip())
    assert page.exists()
    assert len(list((page.parent / "pictures").iterdir())) == 4
    stale = r"no factors; those that are there: factors\.labels was sampled and is empirical"
    with pytest.raises(SpecError, match=stale):
        do(AttributeInspect(spec=spec, out=out), "--factors.labels=empirical")


def test_the_damping_that_is_shown_is_the_one_asked_for_now(tiny_run: Any, tmp_path: Path) -> None:
    """Factors are found under any damping; what was written when they were fitted is of its own."""
    spec, out = write(tiny_run, tmp_path)

    def damped(told: str) -> list[str]:
        return [line.split()[-1] for line in told.splitlines() if "mlp.c_" in line]

    strong = ("--factors.damping=1000.0",)
    do(AttributeTrain(spec=spec, out=out))
    told = do(AttributeFit(spec=spec, out=out))
    assert "damping, of [factors]: 0.1 of each module's mean eigenvalue" in told
    assert "100.0%" not in damped(told)
    again = do(AttributeFit(spec=spec, out=out), *strong)
    assert "factors found" in again
    assert "damping, of [factors]: 1000 of each module's mean eigenvalue" in again
    assert set(damped(again)) == {"100.0%"}
    absolute = ("--factors.damping-unit=absolute", "--factors.damping=1e-30")
    least = do(AttributeFit(spec=spec, out=out), *absolute)
    assert "damping, of [factors]: 1e-30\n" in least
    assert "factors found" in least
    assert damped(do(AttributeFit(spec=spec, out=out))) == damped(told)

    pages = [
        Path(do(AttributeInspect(spec=spec, out=out), *options).rpartition("pictures: ")[2].strip())
        for options in ((), strong)
    ]
    assert pages[0] != pages[1]
    for page, shown in zip(pages, ("damping 0.1 of each", "damping 1,000 of each"), strict=True):
        assert shown in page.read_text()
    assert "100% damped" in pages[1].read_text()
    assert "100% damped" not in pages[0].read_text()


def _shows(stage: str, asked: list[Any]) -> Any:
    def do(desk: Any, form: Any) -> None:
        asked.append(form)
        desk.show(f"page of {stage}", Path(f"{stage}.html"))

    return do


def test_run_does_every_stage_as_it_is_without_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, asked = tmp_path / "a.toml", []
    spec.write_text("name = 'x'\nrun = 'runs/0'\n")
    stages = ("train", "fit", "inspect", "score", "top", "evaluate")
    for stage in stages:
        monkeypatch.setattr(commands, f"_{stage}", _shows(stage, asked))
    said = io.StringIO()

    run = AttributeRun(spec=spec, out=tmp_path, wandb_mode="offline")
    assert carry_out(run, (), "p", Console(file=said, width=80)) == 0

    forms = GROUPS["attribute"][1]
    assert [type(form) for form in asked] == [forms[stage] for stage in stages]
    assert asked[0] == AttributeTrain(spec=spec, out=tmp_path, wandb_mode="offline")
    assert asked[4] == AttributeTop(spec=spec, out=tmp_path)
    assert "6 of 6: evaluate" in said.getvalue()
    pages = [f"page of {stage}: {stage}.html" for stage in stages]
    assert said.getvalue().rstrip().splitlines()[-6:] == pages  # once more, together
    assert set(get_args(Command)) == set(forms.values())  # so that mypy asks for each of them
