"""Named static mixtures and UniMax, by hand."""

from __future__ import annotations

import pytest
import torch

from baselines.presets import HalfOnTarget, TargetOnly
from baselines.static import Static
from baselines.temperature import Temperature
from baselines.unimax import UniMax, UniMaxMain, divided
from harness.api import Mixer
from tests.doubles import FakeView, PlanRunner, PlanSpec


def test_temperature_flattens_natural_proportions() -> None:
    """tau 2: (.64, .36) to the 1/2, normalised: (.8, .6) / 1.4."""
    found = Temperature(tau=2.0).foresee({"a": 0.64, "b": 0.36}, {})
    total = sum(found.values())

    assert [v / total for v in found.values()] == pytest.approx([8 / 14, 6 / 14])


def test_presets_sample_as_the_static_mixtures_that_they_name() -> None:
    """Without any run but their own, so that they work inside of a trainer too."""
    wanted = {
        Temperature(): Static(weights="natural", temperature=1 / 0.3),
        TargetOnly(): Static(weights="target"),
        HalfOnTarget(): Static(weights="target", share=0.5),
    }
    for preset, static in wanted.items():
        view = FakeView()
        found, same = (mixer.propose(view, mixer.init(view)) for mixer in (preset, static))
        assert torch.equal(found, same)
        assert type(preset).plan is Mixer.plan


def test_a_target_that_is_not_trained_on_is_refused() -> None:
    """Before anything is computed."""
    for preset in (TargetOnly(), HalfOnTarget()):
        with pytest.raises(ValueError, match="the target is not trained on"):
            preset.check(("a", "b"), {"z": 1.0})


def test_unimax_by_hand() -> None:
    """Sizes 10, 100, 1000, budget 600, 3 passes: the smallest gets 30, the others 285 each."""
    got = divided(torch.tensor([1000, 10, 100]), 600, 3.0)

    assert got.tolist() == pytest.approx([285 / 600, 30 / 600, 285 / 600])


def test_unimax_is_uniform_where_no_domain_repeats_and_natural_where_all_do() -> None:
    """The two ends of Algorithm 1."""
    sizes = torch.tensor([1000, 10, 100])

    assert divided(sizes, 9, 3.0).tolist() == pytest.approx([1 / 3] * 3)
    assert divided(sizes, 1e6, 3.0).tolist() == pytest.approx([1000 / 1110, 10 / 1110, 100 / 1110])


def test_unimax_divides_the_runs_own_budget() -> None:
    """100 steps of 8 rows; domains of 50, 30 and 20 rows at most 4 times."""
    run = PlanRunner()
    UniMax().plan(PlanSpec(), run)
    mixer, view = run.main.mixer, FakeView()

    got = mixer.propose(view, mixer.init(view))

    assert mixer == UniMaxMain(passes=4.0, budget_rows=800)
    assert got.tolist() == pytest.approx([200 / 400, 120 / 400, 80 / 400])
