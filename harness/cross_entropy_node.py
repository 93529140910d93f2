"""The autograd node of harness/cross_entropy.py, apart: importing that needs no torch yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(torch.autograd.Function):
    """Losses [N] and the log-probabilities [N, V] that their derivative needs.

    The latter are an output with a derivative of its own, so that what is saved leads back to the
    logits and the derivative can be differentiated again.
    """

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and log-probabilities."""
        log_probabilities = logits.log_softmax(-1)
        return -log_probabilities.gather(-1, targets[:, None])[:, 0], log_probabilities

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Save what both kinds of derivative need."""
        saved = inputs[1], output[1]
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, of_losses: Tensor | None, of_log_probabilities: Tensor | None
    ) -> tuple[Tensor | None, None]:
        """Return the gradient by the logits, in a form that can be differentiated again."""
        targets, log_probabilities = ctx.saved_tensors
        probabilities, along = log_probabilities.exp(), None
        if of_log_probabilities is not None:
            total = of_log_probabilities.sum(-1, keepdim=True)
            along = of_log_probabilities - probabilities * total
        if of_losses is not None:
            share = of_losses[:, None]
            # in place, unless autograd will need the probabilities themselves
            again = torch.is_grad_enabled() or along is not None
            scaled = probabilities * share if again else probabilities.mul_(share)
            scaled = scaled.scatter_add_(-1, targets[:, None], -share)
            along = scaled if along is None else along + scaled
        return along, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, Tensor]:
        """Return the tangents of losses and log-probabilities."""
        targets, log_probabilities = ctx.saved_tensors
        centered = tangent - (log_probabilities.exp() * tangent).sum(-1, keepdim=True)
        return -centered.gather(-1, targets[:, None])[:, 0], centered
