"""Tells transformers that a row is one sequence, which it would find out at every forward pass.

It reads position ids to see whether several sequences share a row: on a GPU the host waits for that
answer, and inside a compiled model, where it cannot be had, a mask is written out and fused
attention is lost. Our rows never hold ids of their own, so the answer is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def whole_rows() -> Iterator[None]:
    """Answer for the model while it runs; other users of transformers are asked as ever."""
    from transformers import masking_utils

    module: Any = masking_utils
    found = module.find_packed_sequence_indices
    module.find_packed_sequence_indices = _one_sequence
    try:
        yield
    finally:
        module.find_packed_sequence_indices = found


def _one_sequence(position_ids: Tensor) -> None:
    """Say that no row holds more than one sequence."""
