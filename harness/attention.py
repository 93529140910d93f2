"""Attention as separate products where that trains faster: short rows in bfloat16 on a CPU.

The backward pass of PyTorch's fused attention is slow there: forward and backward together, the
products, softmax and all, are 2.7 times as fast in rows of 32 tokens, 1.8 times in rows of 128, and
slower at 256 (`python -m tests.bench.run --only attention`). The fused kernel stays where no
gradient is asked for, which is where it is fast, in longer rows, in float32, and on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SHORT = 128  # tokens


@contextmanager
def short_rows(inputs: Tensor) -> Iterator[None]:
    """Choose the form of attention for a forward pass over inputs [B, T]."""
    with as_products() if _is_faster(inputs) else nullcontext():
        yield


@contextmanager
def as_products() -> Iterator[None]:
    """Take attention's products and softmax one by one, in the type that the states have."""
    backends = torch.backends.cuda  # their home, whatever the device
    allowed = backends.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    backends.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        backends.allow_fp16_bf16_reduction_math_sdp(allowed)


def _is_faster(inputs: Tensor) -> bool:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    is_short = not inputs.is_cuda and inputs.shape[1] <= SHORT
    return half and is_short and torch.is_grad_enabled()
