"""ADO against arXiv:2410.11820: laws that were planted come out of the fit, and weights by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from baselines.ado import ADO, fitted_law
from tests.doubles import FakeView, batch_of

LAWS = [(2.0, 0.7, 0.3), (4.0, 0.9, 0.6), (1.5, 1.1, 0.15)]


@pytest.mark.parametrize(("a", "e", "alpha"), LAWS)
def test_a_planted_law_is_recovered(a: float, e: float, alpha: float) -> None:
    """L(n) = exp(e) + exp(a) n^-alpha without noise, from 16 starts of the grid."""
    rows = np.arange(1, 201) * 160.0
    losses = np.exp(e) + np.exp(a) * rows**-alpha

    found = fitted_law(rows, losses, starts=16)

    assert found.tolist() == pytest.approx([a, e, alpha], rel=0.02)


def test_a_planted_slope_survives_noise() -> None:
    """What the mixture needs is the slope: within a tenth, under noise of a hundredth of a nat."""
    a, e, alpha = LAWS[0]
    rows = np.arange(1, 401) * 16.0
    noise = np.random.default_rng(0).normal(0, 0.01, len(rows))
    found = fitted_law(rows, np.exp(e) + np.exp(a) * rows**-alpha + noise, starts=16)

    wanted = alpha * np.exp(a) * rows[-1] ** (-alpha - 1)
    got = found[2] * np.exp(found[0]) * rows[-1] ** (-found[2] - 1)
    assert got == pytest.approx(wanted, rel=0.1)


def test_a_few_losses_far_off_do_not_move_the_law() -> None:
    """Huber's 1e-3 gives an outlier the pull of a thousandth; its square would bend the law."""
    a, e, alpha = LAWS[0]
    rows = np.arange(1, 201) * 160.0
    losses = np.exp(e) + np.exp(a) * rows**-alpha
    losses[::20] *= 1.5

    found = fitted_law(rows, losses, starts=16)

    assert found.tolist() == pytest.approx([a, e, alpha], rel=0.02)


def test_losses_are_smoothed_over_a_hundred_and_one_steps_by_cubics() -> None:
    """A drop of a nat halfway is felt from 50 steps before it to 50 after; a cubic is kept."""
    seen: list[np.ndarray] = []
    view, mixer = FakeView(num_steps=301), ADO(start=100, every=100, ignore=0, stride=1)
    state = mixer.init(view)
    state["losses"][:] = 3.0
    state["losses"][150:] = 2.0

    def keep(rows: np.ndarray, losses: np.ndarray, starts: int) -> np.ndarray:
        seen.append(losses)
        return np.ones(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baselines.ado.fitted_law", keep)
        mixer._laws(state["losses"], 3)

    smooth = seen[0]
    assert smooth[:100].tolist() == pytest.approx([3.0] * 100, abs=1e-9)
    assert abs(smooth[100] - 3) > 1e-3
    assert abs(smooth[199] - 2) > 1e-3
    assert smooth[200:].tolist() == pytest.approx([2.0] * 101, abs=1e-9)
    # a cubic is kept as it is
    state["losses"][:] = (torch.arange(301).double() / 100 - 1.5)[:, None] ** 3 + 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baselines.ado.fitted_law", keep)
        mixer._laws(state["losses"], 3)
    assert np.allclose(seen[-1], state["losses"][:, 0].numpy(), atol=1e-9)


def test_the_bounds_hold() -> None:
    """Losses that fall faster than n^-.8 or end below e^.5 = 1.65 are fitted at the bound."""
    rows = np.arange(1, 201) * 16.0

    steep = fitted_law(rows, 2.0 + 50 * rows**-1.5, starts=16)
    low = fitted_law(rows, 1.0 + 5 * rows**-0.3, starts=16)

    assert steep[2] <= 0.8
    assert low[1] >= 0.5


def test_weights_follow_slope_prior_and_realised_shares() -> None:
    """rho ~ max(alpha, .05) exp(a) n^(-alpha - 1) mu h^.5 by hand, then pi = .9 pibar + .1 rho."""
    view, mixer = FakeView(num_steps=5000), ADO()
    state = mixer.init(view)
    view.step = 9
    state["laws"] = torch.tensor([(1.0, 0.7, 0.5), (2.0, 0.6, 0.3), (0.5, 0.8, 0.01)]).double()
    state["rows"] = torch.tensor(100.0)
    state["realised"] = torch.tensor([0.25, 0.25, 0.5]).double()

    got = mixer.propose(view, state)

    slopes = [0.5 * math.e * 100**-1.5, 0.3 * math.exp(2) * 100**-1.3, 0.05 * math.exp(0.5) * 100**-1.01]  # fmt: skip # noqa: E501
    shares = zip(slopes, (0.5, 0.3, 0.2), (0.5, 0.5, math.sqrt(0.5)), strict=True)
    raw = [slope * mu * root for slope, mu, root in shares]
    rho = [max(r / sum(raw), 1e-2) for r in raw]
    rho = [r / sum(rho) for r in rho]
    mean = [0.5, 0.3, 0.2]
    assert got.tolist() == pytest.approx(
        [0.9 * m + 0.1 * r for m, r in zip(mean, rho, strict=True)]
    )
    moved = [m + (r - m) / 9 for m, r in zip(mean, rho, strict=True)]  # nine batches are behind
    assert state["mean"].tolist() == pytest.approx(moved)


def test_natural_proportions_until_the_first_fit_and_a_domain_that_is_missing_keeps_its_loss() -> (
    None
):
    """The history has the last loss of a domain that was not drawn, and the batch's at first."""
    view, mixer = FakeView(num_steps=200), ADO(start=2, every=100)
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0]), torch.tensor([[2.0, 4.0]]))
    view.step = 1
    mixer.observe(view, state, batch_of([1]), torch.tensor([[5.0, 5.0]]))

    assert state["losses"][:2].tolist() == [[3.0, 3.0, 3.0], [3.0, 5.0, 3.0]]
    assert float(state["rows"]) == 2
    assert state["realised"].tolist() == pytest.approx([0.9 * 0.55 + 0, 0.9 * 0.27 + 0.1, 0.162])
    assert torch.equal(mixer.propose(view, state), view.prior)


def test_the_run_fits_what_its_losses_follow() -> None:
    """Losses planted through the hooks: the laws in the state have their slopes, on record too."""
    view, mixer = FakeView(num_steps=402), ADO(start=400, every=400, ignore=100, starts=8)
    state = mixer.init(view)
    for view.step in range(401):
        rows = 3.0 * (view.step + 1)
        losses = [math.exp(e) + math.exp(a) * rows**-alpha for a, e, alpha in LAWS]
        mixer.observe(view, state, batch_of([0, 1, 2]), torch.tensor(losses)[:, None].expand(3, 2))

    n = 3.0 * 401
    for law, (a, _, alpha) in zip(state["laws"].tolist(), LAWS, strict=True):
        wanted = alpha * math.exp(a) * n ** (-alpha - 1)
        assert law[2] * math.exp(law[0]) * n ** (-law[2] - 1) == pytest.approx(wanted, rel=0.02)
    assert [name for name, _ in view.notes] == ["laws"]


def test_a_run_that_ends_before_the_first_fit_is_refused() -> None:
    """It would be natural proportions under another name."""
    with pytest.raises(ValueError, match="start: first fit at 1000 of 500 steps; lower it"):
        ADO().init(FakeView(num_steps=500))
    with pytest.raises(ValueError, match="start: first fit at 97 of 90 steps; lower it, or"):
        ADO(start=40, every=97).check_length(90, ("a",))  # at a multiple of `every`
    ADO(start=40, every=20).check_length(42, ("a",))


def test_a_fit_of_too_few_points_is_noted() -> None:
    """One of four: the weights stay, and the records say why."""
    view, mixer = FakeView(num_steps=8), ADO(start=4, every=4, ignore=2, stride=2)
    state = mixer.init(view)
    for view.step in range(5):
        mixer.observe(view, state, batch_of([0, 1, 2]), torch.full((3, 2), 3.0))

    assert [values["fitted"] for _, values in view.notes] == [[]]
    assert torch.equal(mixer.propose(view, state), view.prior)
