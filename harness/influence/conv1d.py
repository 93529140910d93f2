"""A copy of the model in which every chosen layer is an nn.Linear under its own name.

kronfluence wraps nn.Linear alone, freezes what it is given, and takes every bias it sees. So it is
given a copy: GPT-2's Conv1D becomes a Linear with the transposed weight, and a bias that is not to
be scored moves from the layer into a hook on it. The price is a second model in memory.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.influence.selection import Use


def linear_copy(model: nn.Module, uses: list[Use]) -> nn.Module:
    """Return a copy with the same logits, whose modules in `uses` are linear; no generator moves.

    A module whose use names no bias has none in the copy.
    """
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    for use in uses:
        module = twin.get_submodule(use.name)
        weight, bias = (cast("Tensor | None", getattr(module, n, None)) for n in ("weight", "bias"))
        assert weight is not None
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        if use.kind == "conv1d":
            weight = weight.T.contiguous()  # [out, in]
        linear = _linear(weight, bias if use.bias else None)
        if bias is not None and not use.bias:
            linear.register_forward_hook(partial(_add, bias))
        parent, _, name = use.name.rpartition(".")
        setattr(twin.get_submodule(parent), name, linear)
    return twin


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    size_out, size_in = weight.shape
    linear = torch.nn.Linear(size_in, size_out, bias is not None, device="meta")  # draws nothing
    linear.weight = torch.nn.Parameter(weight)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias)
    return linear


def _add(bias: Tensor, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + bias
