"""A pass-through node that hands the gradient of a module's output to a callback.

All taps of a pass share one token, and the backward pass asks for the token's gradient alone. So
autograd forms input gradients down to the lowest tap and no weight gradient at all, whether or not
the parameters require one, and nothing is added to any `grad`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Tap(torch.autograd.Function):
    """The identity of an output, which calls `receive` with the gradient of the loss by it."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, token: Tensor, receive: Callable[[Tensor], None]) -> Any:
        """Return the output and remember whom to tell."""
        ctx.receive = receive
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Tell, and pass the gradient on."""
        ctx.receive(gradient.detach())
        return gradient, None, None
