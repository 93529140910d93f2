"""Tells transformers that a row is one sequence, which it would find out at every forward pass.

It reads position ids to see whether several sequences share a row: on a GPU the host waits for that
answer, and inside a compiled model, where it cannot be had, a mask is written out and fused
attention is lost. Our rows never hold ids of their own, so the answer is known.

It also writes a causal mask out where a model is traced to be exported, which PyTorch before 2.13
says of every compiled model, and transformers before 5.24 of any: on an H200, attention was then
half of a compiled 124M model's step. Nothing is exported here.
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
    found = {name: getattr(module, name) for name in _ANSWERS if hasattr(module, name)}
    for name in found:
        setattr(module, name, _ANSWERS[name])
    try:
        yield
    finally:
        for name, theirs in found.items():
            setattr(module, name, theirs)


def _one_sequence(position_ids: Tensor) -> None:
    """Say that no row holds more than one sequence."""


def _is_exporting() -> bool:
    return False


def _is_tracing(tensor: Tensor | None = None) -> bool:
    """Say whether a mask that was given may be read; where none was, there is nothing to read."""
    from transformers.utils.import_utils import is_tracing

    return tensor is not None and bool(is_tracing(tensor))


_ANSWERS = {
    "find_packed_sequence_indices": _one_sequence,
    "is_torchdynamo_exporting": _is_exporting,
    "is_tracing": _is_tracing,
}
