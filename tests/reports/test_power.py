"""What seeds can show: the floor of the p value, and the smallest effect."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports.effects import detectable_effect, seeds_for
from reports.power import family_size, hopeless, prospects, smallest_p
from tests.reports.synthetic import write_out

ROOT = Path(__file__).parents[2]


def ablation(num_seeds: int, *controls: bool, margin: float | None = None) -> Any:
    """Return what power asks of an ablation: a baseline, and an arm for each of `controls`."""
    arms = {f"arm{i}": SimpleNamespace(is_control=c) for i, c in enumerate(controls)}
    base = {"base": SimpleNamespace(is_control=False)}
    return SimpleNamespace(
        name="x",
        seeds=tuple(range(num_seeds)),
        arms=base | arms,
        baseline="base",
        primary="mean",
        margin=margin,
    )


@pytest.mark.parametrize(
    ("num_seeds", "methods", "possible"),
    [(5, 1, False), (6, 1, True), (6, 2, False), (7, 2, True), (7, 3, True), (7, 4, False)],
)
def test_the_warning_comes_just_where_no_verdict_can(
    num_seeds: int, methods: int, possible: bool
) -> None:
    asked = ablation(num_seeds, *[False] * methods)

    told = hopeless(asked)

    assert (told is None) == possible
    assert possible or f"{num_seeds} seeds and {methods} tested method" in str(told)


def test_controls_are_not_tested() -> None:
    assert family_size(ablation(6, False, True, True)) == 1
    assert hopeless(ablation(6, False, True, True)) is None
    assert hopeless(ablation(1, True)) is None


def test_prospects_without_finished_runs_have_no_noise(tmp_path: Path) -> None:
    found = prospects(ablation(6, False, False), tmp_path)

    assert (found.num_seeds, found.family) == (6, 2)
    assert found.smallest_p == 2 * smallest_p(6) == 0.0625
    assert math.isnan(found.effect)  # no effect of any size reaches .025 at six seeds
    assert math.isnan(found.spread)
    assert "use 7 seeds or more" in str(found.warning)


def test_prospects_with_finished_runs_say_how_many_seeds_find_the_margin(tmp_path: Path) -> None:
    out = write_out(tmp_path, name="x", num_seeds=8)
    asked = ablation(8, False, margin=0.01)
    asked.baseline, asked.primary = "uniform", "target"  # two arms are tested against it

    found = prospects(asked, out)

    assert found.effect == detectable_effect(8, 0.025, 0.8)
    assert 0.01 < found.spread < 0.03  # sqrt(2) x .012, the largest of three
    assert found.margin_seeds == seeds_for(0.01, found.spread, 0.025, 0.8)
    assert prospects(ablation(8, False), tmp_path / "new").margin_seeds is None


def test_the_warning_before_a_run_needs_no_scipy() -> None:
    program = "import reports.power, sys; assert 'scipy' not in sys.modules"

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
