"""What seeds can show: the floor of the p value, and the smallest effect."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.power import detectable_effect, family_size, hopeless, prospects, smallest_p

ROOT = Path(__file__).parents[2]


def ablation(num_seeds: int, *controls: bool) -> Any:
    """Return what power asks of an ablation: a baseline, and an arm for each of `controls`."""
    arms = {f"arm{i}": SimpleNamespace(is_control=c) for i, c in enumerate(controls)}
    base = {"base": SimpleNamespace(is_control=False)}
    return SimpleNamespace(
        name="x", seeds=tuple(range(num_seeds)), arms=base | arms, baseline="base", primary="mean"
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


@pytest.mark.parametrize("num_pairs", [3, 6, 7])
def test_the_effect_is_that_of_the_noncentral_t(num_pairs: int) -> None:
    """scipy's distribution, where it gives a number, says that the power is .8."""
    effect = detectable_effect(num_pairs, 0.05)
    bound, center = stats.t.ppf(0.975, num_pairs - 1), effect * math.sqrt(num_pairs)

    power = stats.nct.sf(bound, num_pairs - 1, center) + stats.nct.cdf(
        -bound, num_pairs - 1, center
    )
    assert power == pytest.approx(0.8, abs=1e-3)


def test_the_effect_is_found_in_four_of_five_simulated_tests() -> None:
    effect = detectable_effect(6, 0.025)
    drawn = np.random.default_rng(0).standard_normal((20_000, 6)) + effect

    found = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.025

    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_and_fewer_methods_find_smaller_effects() -> None:
    by_seeds = [detectable_effect(n, 0.05) for n in (2, 3, 6, 12, 50)]

    assert by_seeds == sorted(by_seeds, reverse=True)
    assert detectable_effect(6, 0.05 / 3) > detectable_effect(6, 0.05)
    assert math.isnan(detectable_effect(1, 0.05))


def test_prospects_without_finished_runs_have_no_noise(tmp_path: Path) -> None:
    found = prospects(ablation(6, False, False), tmp_path)

    assert (found.num_seeds, found.family) == (6, 2)
    assert found.smallest_p == 2 * smallest_p(6) == 0.0625
    assert found.effect == detectable_effect(6, 0.025)
    assert math.isnan(found.spread)
    assert "use 7 seeds or more" in str(found.warning)


def test_the_warning_before_a_run_needs_no_scipy() -> None:
    program = "import reports.power, sys; assert 'scipy' not in sys.modules"

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
