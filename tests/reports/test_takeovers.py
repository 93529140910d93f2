"""Controls that take an arm's weights over, told from those that make other weights of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reports.build import build
from reports.headline import headline
from reports.load import load
from reports.takeovers import takeovers
from tests.reports.synthetic import EFFECTS, averaged, borrow, shuffled, wandered, write_out

Made = Callable[[np.ndarray, int], np.ndarray]


def found(out: Path, half: Made, again: Made) -> dict[str, list[str]]:
    """Return what is told of two controls that look at influence's runs."""
    write_out(out, num_seeds=3, effects={**EFFECTS, "again": 0.0})
    borrow(out, "half", "influence", half)
    borrow(out, "again", "influence", again)
    return takeovers(load(out))


def rounded(weights: np.ndarray, seed: int) -> np.ndarray:
    return averaged(weights, seed).astype(np.float32)


def others_at_seed_1(weights: np.ndarray, seed: int) -> np.ndarray:
    return wandered(weights, seed) if seed == 1 else averaged(weights, seed)


@pytest.mark.parametrize("made", [averaged, shuffled, rounded])
def test_equal_mean_weights_are_taken_over_whenever_they_were_sampled_with(
    tmp_path: Path, made: Made
) -> None:
    assert found(tmp_path, made, wandered) == {"influence": ["half"]}


def test_weights_that_differ_at_one_seed_are_not_the_arms(tmp_path: Path) -> None:
    assert found(tmp_path, wandered, others_at_seed_1) == {}


@pytest.mark.parametrize("made", [(averaged, shuffled), (shuffled, averaged)])
def test_a_mean_that_is_kept_comes_first_wherever_it_is_declared(
    tmp_path: Path, made: tuple[Made, Made]
) -> None:
    """A shuffle still has the arm's mixtures, and moments to have them at."""
    labels = dict(zip(made, ("half", "again"), strict=True))

    assert found(tmp_path, *made) == {"influence": [labels[averaged], labels[shuffled]]}


def test_only_finished_seeds_are_compared(tmp_path: Path) -> None:
    """A control that has none in common with its arm is not known to take anything over."""
    broken = {("half", seed): ("failed", "no memory") for seed in range(2)}
    write_out(tmp_path, num_seeds=3, broken=broken)
    borrow(tmp_path, "half", "influence", others_at_seed_1)

    assert takeovers(load(tmp_path)) == {"influence": ["half"]}
    write_out(tmp_path, num_seeds=2, broken=broken)
    borrow(tmp_path, "half", "influence", averaged)
    assert takeovers(load(tmp_path)) == {}


def test_a_folder_whose_runs_are_gone_has_a_report(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    borrow(tmp_path, "half", "influence", averaged)
    shutil.rmtree(tmp_path / "runs")

    assert takeovers(load(tmp_path)) == {}
    assert build(tmp_path).html.exists()


def test_without_a_control_that_looks_nothing_is_taken_over(eight: Path) -> None:
    assert takeovers(load(eight)) == {}


def test_the_headline_does_not_say_of_a_walk_that_it_takes_weights_over(tmp_path: Path) -> None:
    found(tmp_path, averaged, wandered)
    told = [s.text for s in headline(load(tmp_path)) if s.text.startswith("Against the controls")]

    assert len(told) == 2
    assert told[0].startswith(
        "Against the controls that take over an arm's weights: influence less half "
    )
    assert told[1].startswith(
        "Against the controls that look at an arm's runs and sample with other weights: "
        "influence less again "
    )
    for text in told:
        assert text.count(" less ") == 1
        assert text.endswith("Descriptive, not tested.")
