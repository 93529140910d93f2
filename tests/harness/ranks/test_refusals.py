"""What ranks cannot do is refused in one line before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.cli import find_method
from harness.errors import SpecError
from harness.preflight import check_ranks
from harness.spec import Ablation
from harness.specfile import load_ablation

SPEC = """
name = "t"
target = "a"
baseline = "uniform"
seeds = [0]
[domains.a]
kind = "synthetic"
[domains.b]
kind = "synthetic"
seed = 1
[budget]
steps = 10
[arms.uniform]
method = "static"
[arms.influence]
method = "influence"
"""
SMALL = "every = 4, fidelity_every = 0"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process think that torchrun has started it as rank 0."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "0")


def ablation(folder: Path, settings: str, *overrides: str) -> Ablation:
    """Return the ablation with the influence arm's settings."""
    path = folder / "t.toml"
    path.write_text(f"{SPEC}settings = {{ {settings} }}\n")
    return load_ablation(path, overrides, find_method)


REFUSED = {
    "a dense estimator": (f'{SMALL}, estimator = "grad_dot"', "grad_dot reads whole parameters"),
    "forward mode": (f'{SMALL}, estimator = {{ difference = "forward" }}', "forward mode"),
    "bfloat16 scoring": (
        f'{SMALL}, estimator = {{ difference = "central", precision = "bfloat16" }}',
        "bfloat16 scoring",
    ),
    "a comparison with exact scores": ("every = 4", "fidelity_every: exact row gradients"),
    "second order": (f'{SMALL}, rule = "qp", second_order = true', "second_order: second"),
}


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_whole_parameters_is_refused_with_shares(name: str, tmp_path: Path) -> None:
    """Each says what to set instead; with DDP all of them go."""
    settings, told = REFUSED[name]

    with pytest.raises(SpecError, match=told) as refused:
        check_ranks(ablation(tmp_path, settings, "--parallel=fsdp"), None)

    text = str(refused.value)
    assert text.startswith("arms.influence.settings: ")
    assert 'parallel = "ddp"' in text
    assert "\n" not in text
    check_ranks(ablation(tmp_path, settings, "--parallel=ddp"), None)


@pytest.mark.usefixtures("launched")
def test_what_goes_with_shares_is_let_through(tmp_path: Path) -> None:
    """The directional estimator needs nothing whole."""
    check_ranks(ablation(tmp_path, SMALL, "--parallel=fsdp"), 1)


@pytest.mark.usefixtures("launched")
def test_kronfluence_and_several_jobs_are_refused_on_any_ranks(tmp_path: Path) -> None:
    """Kronfluence divides rows among processes itself; runs go one at a time."""
    with pytest.raises(SpecError, match='fitter = "hooks"'):
        check_ranks(ablation(tmp_path, f'{SMALL}, estimator = "ekfac"'), None)
    with pytest.raises(SpecError, match="--jobs: is 2"):
        check_ranks(ablation(tmp_path, SMALL), 2)


def test_one_process_refuses_nothing(tmp_path: Path) -> None:
    """Without torchrun `parallel` does not matter, so a run of ranks can be taken up by one."""
    check_ranks(ablation(tmp_path, 'every = 4, estimator = "ekfac"', "--parallel=fsdp"), 4)


def test_neither_parallel_nor_the_number_of_ranks_is_part_of_a_run(tmp_path: Path) -> None:
    """A run id knows nothing of either."""
    from harness.resolve import resolve

    specs = [
        resolve(ablation(tmp_path, SMALL, f"--parallel={parallel}"), "c")
        for parallel in ("ddp", "fsdp")
    ]

    ids = [[spec.run_id for spec in one.values()] for one in specs]
    assert ids[0] == ids[1]


def test_another_command_under_torchrun_is_refused(
    launched: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every rank would carry it out."""
    from contextlib import nullcontext

    monkeypatch.setattr("harness.rank_grid.leading", nullcontext)

    assert cli.main(["show", "runs"]) == 2
    assert "torchrun starts `steelyard run` alone" in capsys.readouterr().err
