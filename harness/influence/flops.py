"""What an estimator's own passes cost: counted by torch on the first chunk, then multiplied.

Rows of one batch have one length, so what the first chunk costs per row, all do. The price is that
the first chunk of each call runs under torch's counter, which takes longer than a small model's own
operations: who knows the cost of a row says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, View


# Per pass, where no number of rows is asked for: activations take the same room however long a row
# is. Row gradients take one of the rows, so that where a parameter is large, few rows have to do.
PASS_TOKENS, PASS_TOKENS_GPU, PASS_ROWS = 4096, 16384, 64
LARGE, FEW_ROWS = 2**26, 16  # numbers: 256 MiB of float32


def chunks(rows: Batch, size: int, largest: int = 0) -> list[Batch]:
    """Return the rows in pieces of at most `size`; 0: of as many as `rows_per_pass` says."""
    size = size or rows_per_pass(rows.inputs, largest)
    return [rows.select(slice(i, i + size)) for i in range(0, len(rows.rows), size)]


def rows_per_pass(inputs: Tensor, largest: int = 0) -> int:
    """Return how many rows [B, T] have about PASS_TOKENS tokens, or the GPU's; at most PASS_ROWS.

    Of a parameter with `largest` numbers, whose row gradients are formed, more than FEW_ROWS may
    take no more than LARGE together.
    """
    tokens = PASS_TOKENS_GPU if inputs.is_cuda else PASS_TOKENS
    room = max(FEW_ROWS, LARGE // max(1, largest))
    return min(PASS_ROWS, room, max(1, tokens // inputs.shape[1]))


def billed(
    view: View,
    rows: Batch,
    size: int,
    compute: Callable[[Batch], Tensor],
    known: float | None = None,
) -> Tensor:
    """Return `compute` of every chunk of at most `size` rows, joined, and report what it costs.

    `known` is a row's cost, where it has been counted before.
    """
    parts: list[Tensor] = []
    flops_per_row = known or 0.0
    for chunk in chunks(rows, size):
        if parts or known:
            parts.append(compute(chunk))
        else:
            with counter() as counted:
                parts.append(compute(chunk))
            flops_per_row = counted.get_total_flops() / len(chunk.rows)
        view.bill(flops_per_row * len(chunk.rows), chunk.targets.numel())
    return torch.cat(parts)


def counter() -> Any:
    """Return torch's counter, with the one attention kernel of the CPU that it leaves out."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def back(out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(out, query, key, value))  # type: ignore[no-untyped-call]

    mapping: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: back,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)
