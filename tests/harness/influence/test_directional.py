"""The directional estimator against per-row gradients and against one real step."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from harness.api import Batch, Direction
from harness.influence.directional import (
    AGREEMENT,
    adam_scale,
    checked_step,
    preconditioned,
    score_rows,
    weighted_sum,
)
from harness.loop import Loop
from harness.model import token_losses
from harness.view import RunView
from tests.tiny import MakeLoop, MakeSpec, MakeView


def trained(loop: Loop, steps: int) -> RunView:
    """Return the view of a run after some steps, so that AdamW has moments."""
    loop.start()
    for _ in range(steps):
        loop.step()
    loop.close()
    return loop.view


def exact_scores(view: RunView, rows: Batch, along: Direction) -> Tensor:
    """Return <g_i, v> by one backward pass per row."""
    names, parameters = zip(*view.model.named_parameters(), strict=True)
    scores = []
    for i in range(len(rows.rows)):
        row = rows.select(slice(i, i + 1))
        loss = token_losses(view.model, row).sum() / row.mask.sum()
        gradients = torch.autograd.grad(loss, parameters)
        pairs = zip(names, gradients, strict=True)
        scores.append(sum(float((along[n].double() * g.double()).sum()) for n, g in pairs))
    return torch.tensor(scores, dtype=torch.float64)


@pytest.fixture
def view(make_loop: MakeLoop, make_spec: MakeSpec) -> RunView:
    """Return a run that has trained for eight steps."""
    return trained(make_loop(make_spec()), 8)


def direction(view: RunView) -> Direction:
    """Return the preconditioned probe gradient of domain c, as the influence mixer takes it."""
    probes = view.probes(16)
    gradient = view.gradient(probes.select(probes.domains == view.probe_domains.index("c")))
    return preconditioned(gradient, adam_scale(view))


def test_scores_are_the_exact_row_gradients_along_the_direction(view: RunView) -> None:
    """Spearman with one backward per row is at least .99, at the step that the check chose."""
    rows, along = view.candidates(20), direction(view)
    step = checked_step(view, rows.select(slice(0, 8)), along)

    scores, exact = score_rows(view, rows, along, step.eps), exact_scores(view, rows, along)

    assert step.disagreement < AGREEMENT
    assert spearmanr(scores, exact).statistic >= 0.99
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.02 * float(exact.abs().max()))


def test_adam_scale_is_the_derivative_of_torchs_own_step(view: RunView) -> None:
    """With frozen second moments, AdamW moves by -lr * a * g plus what does not depend on g.

    Two steps from the same state, one with a gradient moved by a small d and v put back to its
    frozen value, differ by -lr * a * d.
    """
    scale = adam_scale(view)
    name, parameter = next(iter(view.model.named_parameters()))
    moved = torch.full_like(parameter, 1e-3)
    after = []
    for shift in (torch.zeros_like(parameter), moved):
        twin = torch.nn.Parameter(parameter.detach().double().clone())
        group = next(
            g for g in view.optimizer.param_groups if any(p is parameter for p in g["params"])
        )
        state = view.optimizer.state[parameter]
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        # torch's update written out with v frozen at its present value
        m = beta1 * state["exp_avg"].double() + (1 - beta1) * shift.double()
        v_hat = state["exp_avg_sq"].double() / (1 - beta2**step)
        m_hat = m / (1 - beta1 ** (step + 1))
        after.append(twin.detach() - m_hat / (v_hat.sqrt() + group["eps"]))

    expected = -scale[name].double() * moved.double()
    torch.testing.assert_close(after[1] - after[0], expected, rtol=1e-5, atol=1e-12)


def test_positive_influence_means_that_a_real_step_lowers_the_query_loss(view: RunView) -> None:
    """One plain gradient step on each row changes the query's loss by -lr * score (r > .999)."""
    probes = view.probes(16)
    query = probes.select(probes.domains == view.probe_domains.index("c"))
    along = view.gradient(query)  # no preconditioner: the oracle is one step of SGD
    rows, rate = view.candidates(6), 1e-3
    step = checked_step(view, rows, along)
    scores = score_rows(view, rows, along, step.eps)

    drops = []
    for i in range(len(rows.rows)):
        model = copy.deepcopy(view.model).double()
        before = token_losses(model, query).mean()
        row = rows.select(slice(i, i + 1))
        loss = token_losses(model, row).sum() / row.mask.sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rate * gradient
            drops.append(float(before - token_losses(model, query).mean()))

    correlation = torch.corrcoef(torch.stack([scores, torch.tensor(drops)]))[0, 1]
    assert correlation > 0.999
    assert (scores.sign() == torch.tensor(drops).sign()).all()


def test_scoring_leaves_the_models_bits_and_gradients_alone(view: RunView) -> None:
    """Parameters are equal bit for bit, and no gradient is left behind."""
    before = copy.deepcopy(view.model.state_dict())
    state = torch.random.get_rng_state()

    along = direction(view)
    score_rows(view, view.candidates(4), along, 1e-4)

    for name, value in view.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in view.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_score_that_is_not_finite_names_row_domain_and_step(view: RunView) -> None:
    """Nothing is clipped in silence."""
    along = {name: torch.zeros_like(p) for name, p in view.model.named_parameters()}
    first = next(iter(along))
    along[first][:] = 1e30

    with pytest.raises(
        FloatingPointError, match=r"influence of row \d+ of domain 'a' is .* step 8"
    ):
        score_rows(view, view.candidates(2), along, 1e10)


def test_a_direction_without_length_is_refused(view: RunView) -> None:
    """A zero probe gradient cannot rank anything."""
    along = {name: torch.zeros_like(p) for name, p in view.model.named_parameters()}

    with pytest.raises(FloatingPointError, match=r"norm 0\.0 at step 8"):
        checked_step(view, view.candidates(2), along)


def test_adam_scale_needs_an_optimizer_that_keeps_moments(view: RunView) -> None:
    """No later step would help: the message names the optimizer and what to do."""
    view.optimizer = torch.optim.SGD(view.model.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="SGD keeps no second moments; use AdamW"):
        adam_scale(view)


def test_adam_scale_needs_moments(make_view: MakeView) -> None:
    """Before the first update there is nothing to precondition with."""
    with pytest.raises(ValueError, match="no second moment yet"):
        adam_scale(make_view())


def test_weighted_sum() -> None:
    """Directions add up by weight, name by name."""
    one, two = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}

    assert weighted_sum([one, two], [0.5, 0.25])["w"].tolist() == [0.5, 0.5]
