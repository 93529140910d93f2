"""ODM against Algorithm 1 of arXiv:2312.02406, two rounds worked by hand, and its two namesakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from baselines.odm import ODM
from harness.api import State
from tests.doubles import FakeView, batch_of

EPS_2 = math.sqrt(math.log(2) / 4)  # eps_2 at K = 2; eps_0 = eps_1 = 1/2, the cap


def two_rounds(mixer: ODM) -> State:
    """Return the state after losses (2, 4), then loss 1 on the first domain alone."""
    view = FakeView(domains=("a", "b"), probe_domains=("a", "b"))
    view.prior = torch.tensor([0.5, 0.5]).double()
    state = mixer.init(view)
    mixer.observe(view, state, batch_of([0, 1]), torch.tensor([[2.0, 2.0], [4.0, 4.0]]))
    assert state["weights"].tolist() == [0.5, 0.5]  # (1 - 2 eps_1) is 0: exploration alone
    view.step = 1
    mixer.observe(view, state, batch_of([0]), torch.tensor([[1.0, 1.0]]))
    return state


def after(shares: list[float]) -> Any:
    """Return the weights: (1 - K eps_2) shares + eps_2."""
    return pytest.approx([(1 - 2 * EPS_2) * share + EPS_2 for share in shares])


def test_the_papers_moving_average_of_importance_weighted_losses() -> None:
    """R = .1 (2, 4) / .5 = (.4, .8); then R_a = .9 x .4 + .1 x 1 / .5 = .56, R_b stays.

    Weights by eps_1 = 1/2: softmax(.28, .40).
    """
    state = two_rounds(ODM(warmup=0.0))

    share = 1 / (1 + math.exp(0.12))
    assert state["rewards"].tolist() == pytest.approx([0.56, 0.8])
    assert state["weights"].tolist() == after([share, 1 - share])


def test_the_released_cumulative_form() -> None:
    """R = (.2, .4) / .5 = (.4, .8); then R_a = .4 + .1 / .5 = .6: nothing is forgotten."""
    state = two_rounds(ODM(warmup=0.0, variant="cumulative"))

    share = 1 / (1 + math.exp(0.1))
    assert state["rewards"].tolist() == pytest.approx([0.6, 0.8])
    assert state["weights"].tolist() == after([share, 1 - share])


def test_the_released_average_of_exponentials() -> None:
    """R = .1 (e^2, e^4); then R_a = .9 x .1 e^2 + .1 e, and weights follow R, not its softmax."""
    state = two_rounds(ODM(warmup=0.0, variant="ema_exp"))

    rewards = [0.09 * math.exp(2) + 0.1 * math.e, 0.1 * math.exp(4)]
    assert state["rewards"].exp().tolist() == pytest.approx(rewards)
    assert state["weights"].tolist() == after([r / sum(rewards) for r in rewards])


def test_the_probability_that_counts_is_the_one_the_arm_was_drawn_with() -> None:
    """A rare arm's loss weighs more: dividing by the new weights instead would not."""
    view = FakeView(domains=("a", "b"), probe_domains=("a", "b"))
    view.prior = torch.tensor([0.9, 0.1]).double()
    mixer = ODM(warmup=0.0)
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0, 1]), torch.tensor([[2.0, 2.0], [2.0, 2.0]]))

    assert state["rewards"].tolist() == pytest.approx([0.2 / 0.9, 0.2 / 0.1])


def test_the_warm_up_keeps_natural_proportions_and_time_starts_after_it() -> None:
    """Nothing is learned before; the first update after it is t = 1."""
    view = FakeView(num_steps=10)
    mixer = ODM(warmup=0.2)
    state = mixer.init(view)
    for view.step in (0, 1):
        mixer.observe(view, state, batch_of([0, 1, 2]), torch.full((3, 2), 5.0))

    assert torch.equal(mixer.propose(view, state), view.prior)
    assert int(state["updates"]) == 0
    view.step = 2
    mixer.observe(view, state, batch_of([0, 1, 2]), torch.full((3, 2), 5.0))
    assert int(state["updates"]) == 1


@pytest.mark.parametrize("variant", ["paper", "cumulative", "ema_exp"])
def test_exploration_leaves_every_domain_its_share(variant: Any) -> None:
    """No domain falls below eps_t, whatever its losses, and huge ones do not overflow."""
    view = FakeView()
    mixer = ODM(warmup=0.0, variant=variant)
    state = mixer.init(view)
    for view.step in range(50):
        losses = torch.tensor([[1e4, 1e4], [1.0, 1.0], [1e-4, 1e-4]])
        mixer.observe(view, state, batch_of([0, 1, 2]), losses)

    eps = math.sqrt(math.log(3) / (3 * 50))
    weights = state["weights"]
    assert weights.tolist() == pytest.approx([1 - 2 * eps, eps, eps], rel=0.3)
    assert float(weights.min()) >= eps - 1e-12
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("variant", "t"), [("paper", 1), ("cumulative", 201), ("ema_exp", 201)])
def test_time_counts_updates_in_the_paper_and_all_steps_in_its_code(variant: Any, t: int) -> None:
    """After 200 steps of warm-up the official code explores eps_201 alone, and by eps_0 = 1/3."""
    view = FakeView(step=200, num_steps=1000)
    mixer = ODM(warmup=0.2, variant=variant)
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0]), torch.tensor([[300.0, 300.0]]))

    eps = min(1 / 3, math.sqrt(math.log(3) / (3 * t)))
    reward = float(state["rewards"][0])
    shares = [1.0, 0.0, 0.0]
    if variant != "ema_exp":
        shares = torch.softmax(torch.tensor([reward / 3, 0.0, 0.0]), 0).tolist()
    wanted = [(1 - 3 * eps) * share + eps for share in shares]
    assert state["weights"].tolist() == pytest.approx(wanted, rel=1e-5)
