"""Aioli against arXiv:2411.05735: a planted law is recovered through the hooks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines.aioli import Aioli
from harness.api import State
from tests.doubles import ProbedView

PLANTED = torch.tensor(
    [[0.030, 0.010, 0.002], [0.004, 0.020, 0.001], [0.000, 0.003, 0.008]]
).double()


def trained(
    mixer: Aioli, steps: int, law: Any = PLANTED, later: Any = None
) -> tuple[ProbedView, State, list[Any]]:
    """Return view, state and mixtures of a run whose losses follow L(t+1) = L(t) - A p exactly.

    From the second round on A is `later`, if that is given.
    """
    view = ProbedView(probe_losses=torch.full((3,), 5.0).double())
    state, mixtures = mixer.init(view), []
    for view.step in range(steps):
        mixtures.append(mixer.propose(view, state).clone())
        now = law if later is None or view.step < mixer.every else later
        view.probe_losses = view.probe_losses - now @ mixtures[-1]
    return view, state, mixtures


@pytest.mark.parametrize("one_hot", [0.5, 0.75, 1.0])
def test_a_planted_law_is_recovered_whatever_the_mixtures(one_hot: float) -> None:
    """The slots' mixtures are undone by solving; what comes out is A over its sum."""
    mixer = Aioli(every=100, lp_rounds=2, lp_steps=5, one_hot=one_hot, ema=None, eta=1.0)

    view, state, mixtures = trained(mixer, 31)

    wanted = PLANTED / PLANTED.sum()
    assert torch.allclose(state["law"], wanted, atol=1e-9)
    gains = wanted.sum(0)
    assert mixtures[30].tolist() == pytest.approx(torch.softmax(gains, 0).tolist())
    assert view.asked["probes"] == 7  # K lp_rounds + 1


def test_slots_look_at_every_domain_in_every_order() -> None:
    """2 orders of 3 domains, 5 steps each: .5 for one, .25 for the others."""
    _, _, mixtures = trained(Aioli(every=100, lp_rounds=2, lp_steps=5), 31)

    slots = torch.stack(mixtures[:30]).reshape(6, 5, 3)
    assert bool((slots == slots[:, :1]).all())
    for order in slots[:, 0].reshape(2, 3, 3):
        assert sorted(order.argmax(1).tolist()) == [0, 1, 2]
        assert order.max(1).values.tolist() == [0.5] * 3
        assert order.min(1).values.tolist() == [0.25] * 3


def test_a_law_with_negative_entries_is_shifted_before_it_is_scaled() -> None:
    """By hand: least entry -.01, so A + .01 over its sum."""
    law = PLANTED.clone()
    law[2, 0] = -0.01
    _, state, _ = trained(Aioli(every=100, lp_rounds=1, lp_steps=2, ema=None), 7, law)

    shifted = law + 0.01
    assert torch.allclose(state["law"], shifted / shifted.sum(), atol=1e-9)


def test_without_an_average_rounds_multiply_and_with_one_they_start_over() -> None:
    """The law stays the same, so the second round doubles the exponent, or repeats it."""
    settings = {"every": 20, "lp_rounds": 1, "lp_steps": 2, "eta": 1.0}
    gains = (PLANTED / PLANTED.sum()).sum(0)

    _, _, product = trained(Aioli(ema=None, **settings), 40)  # type: ignore[arg-type]
    _, _, average = trained(Aioli(ema=0.5, **settings), 40)  # type: ignore[arg-type]

    assert product[-1].tolist() == pytest.approx(torch.softmax(2 * gains, 0).tolist())
    assert average[-1].tolist() == pytest.approx(torch.softmax(gains, 0).tolist())


def test_the_moving_average_gives_the_past_its_weight() -> None:
    """ema .25: a quarter of the first round's law, three quarters of the second's."""
    mixer = Aioli(every=20, lp_rounds=1, lp_steps=2, eta=1.0, ema=0.25)
    later = PLANTED.flip(1)

    _, state, mixtures = trained(mixer, 40, PLANTED, later)

    wanted = (0.25 * PLANTED + 0.75 * later) / PLANTED.sum()
    assert torch.allclose(state["law"], wanted, atol=1e-9)
    assert mixtures[-1].tolist() == pytest.approx(torch.softmax(wanted.sum(0), 0).tolist())


def test_the_shipped_settings_stay_near_uniform_whatever_is_learned() -> None:
    """p ~ exp(eta c) with c >= 0 and sum 1: three domains at eta .1 get .322 to .356."""
    most = math.exp(0.1) / (math.exp(0.1) + 2)
    least = 1 / (math.exp(0.1) + 2)
    extreme = torch.tensor([[1.0, 0, 0]] * 3).double() * 0.01

    _, _, mixtures = trained(replace(Aioli(), every=250, lp_steps=6, lp_rounds=4), 80, extreme)

    assert [round(most, 3), round(least, 3)] == [0.356, 0.322]
    assert mixtures[-1].tolist() == pytest.approx([most, least, least])


def test_settings_that_cannot_work_are_refused_before_the_run() -> None:
    """A round that LearnParams fills, and slots that are all uniform."""
    with pytest.raises(ValueError, match="every: 60, and LearnParams takes 72 steps; raise every"):
        Aioli(every=60).check(("a", "b", "c"), {})
    with pytest.raises(ValueError, match=r"one_hot: 0\.5 is uniform for 2 domains; raise it"):
        Aioli(one_hot=0.5).check(("a", "b"), {})
    Aioli().check(("a", "b"), {})  # which are looked at by .625
    assert Aioli()._mixtures(2).tolist() == [[0.625, 0.375], [0.375, 0.625]]


def test_a_run_that_ends_within_learn_params_is_refused() -> None:
    """Its weights would be the slots' alone."""
    with pytest.raises(ValueError, match="lp_steps: LearnParams takes 72 of 60 steps; lower it"):
        Aioli().check_length(60, ("a", "b", "c"))
    with pytest.raises(ValueError, match="lp_steps: LearnParams takes 72 of 60 steps; lower it"):
        Aioli().init(ProbedView(num_steps=60))


def test_for_a_target_only_its_row_counts() -> None:
    """The planted law's third row over its own sum: the target of the view."""
    mixer = Aioli(every=100, lp_rounds=1, lp_steps=5, ema=None, eta=1.0, objective="target")

    _, state, mixtures = trained(mixer, 16)

    row = PLANTED[2] / PLANTED[2].sum()
    assert torch.allclose(state["law"], torch.stack([torch.zeros(3), torch.zeros(3), row]).double())
    assert mixtures[15].tolist() == pytest.approx(torch.softmax(row, 0).tolist())
