"""Cross-entropy of our own: PyTorch's numbers, forward, backward and along a tangent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from harness.cross_entropy import cross_entropy


@pytest.fixture(params=[False, True], ids=["our own", "PyTorch's"], autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take either way, whatever processor the tests run on."""
    monkeypatch.setattr("harness.cross_entropy._has_avx512", lambda: request.param)


def some_logits(scale: float, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Return logits [7, 33], targets [7] and a weight per target, one of them zero."""
    keyed = torch.Generator().manual_seed(3)
    logits = (torch.randn(7, 33, generator=keyed) * scale).to(dtype)
    weights = torch.rand(7, generator=keyed)
    weights[2] = 0.0
    return logits, torch.randint(33, (7,), generator=keyed), weights


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
def test_losses_and_gradients_are_pytorchs(scale: float) -> None:
    """From almost uniform to almost certain predictions, where most exponentials vanish."""
    logits, targets, weights = some_logits(scale)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()

    losses = cross_entropy(ours, targets)
    wanted = F.cross_entropy(theirs, targets, reduction="none")
    (losses * weights).sum().backward()
    (wanted * weights).sum().backward()

    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-7)
    assert float(ours.grad[2].abs().max()) == 0.0


def test_half_precision_logits_get_their_gradient_back() -> None:
    """Losses in float32, as everywhere; the gradient in the logits' own precision."""
    logits, targets, _ = some_logits(1.0, torch.bfloat16)
    logits.requires_grad_()

    losses = cross_entropy(logits, targets)
    losses.sum().backward()

    assert losses.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_forward_mode_agrees_with_backward_mode() -> None:
    """The derivative along a tangent is the gradient's product with it."""
    logits, targets, _ = some_logits(1.0)
    tangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))

    _, along = torch.func.jvp(lambda x: cross_entropy(x, targets), (logits,), (tangent,))
    logits.requires_grad_()
    gradients = torch.autograd.grad(cross_entropy(logits, targets).sum(), logits)[0]

    torch.testing.assert_close(along, (gradients * tangent).sum(-1), rtol=1e-5, atol=1e-6)


def second(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Return what a gradient's square says of the parameters, and a Hessian's product, float64."""
    logits, targets, weights = some_logits(1.0, torch.float64)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5)).double()
    logits.requires_grad_()

    def total(x: torch.Tensor) -> torch.Tensor:
        return (loss(x * x, targets) * weights).sum()  # x * x: a network with curvature of its own

    first = torch.autograd.grad(total(logits), logits, create_graph=True)[0]
    product = torch.autograd.grad((first * direction).sum(), logits, retain_graph=True)[0]
    return [torch.autograd.grad(first.square().sum(), logits)[0], product]


def test_second_derivatives_are_pytorchs() -> None:
    """Hessian-vector products go through here; a graph cut off in silence would halve them."""
    wanted = second(lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"))

    for ours, theirs in zip(second(cross_entropy), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_function_transforms_agree_with_autograd() -> None:
    """torch.func.grad, and forward mode over it, as a Hessian-vector product is often written."""
    logits, targets, _ = some_logits(1.0, torch.float64)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6)).double()

    def through(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
        gradient = torch.func.grad(lambda x: loss(x * x, targets).sum())
        return torch.func.jvp(gradient, (logits,), (direction,))

    ours = through(cross_entropy)
    theirs = through(lambda x, y: F.cross_entropy(x, y, reduction="none"))

    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_backward_saved_is_not_consumed_by_it() -> None:
    """A graph that is kept can be gone through again."""
    logits, targets, _ = some_logits(1.0)
    logits.requires_grad_()
    loss = cross_entropy(logits, targets).sum()

    once = torch.autograd.grad(loss, logits, retain_graph=True)[0]

    assert torch.equal(torch.autograd.grad(loss, logits)[0], once)
