"""Values move between host and device, and neither waits for the other.

A batch goes from pinned memory on a stream of its own, beside what the device still computes, and
what a step leaves to be read comes back into pinned memory and is read when it has arrived. On a
CPU nothing moves and nothing waits. The price on a GPU: a step's numbers are known a step later.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch


def moved(batch: Batch, device: str) -> Batch:
    """Return the host's batch on the device; what is computed there next waits for it alone."""
    if batch.inputs.device.type == device:
        return batch
    tensors = [getattr(batch, f.name).pin_memory() for f in fields(batch)]
    stream, now = _copying(), torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        copies = [tensor.to(device, non_blocking=True) for tensor in tensors]
    now.wait_stream(stream)
    for tensor in copies:
        tensor.record_stream(now)
    return type(batch)(*copies)


@cache
def _copying() -> Any:
    """Return the stream that batches travel on."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class Outbound:
    """A tensor that is asked for now and read on the host later."""

    def __init__(self, tensor: Tensor) -> None:
        """Queue the copy behind what the device has to do until here."""
        self._value, self._event = tensor, None
        if tensor.is_cuda:
            self._value = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> Tensor:
        """Return the value on the host, after what was queued before it."""
        if self._event is not None:
            self._event.synchronize()
        return self._value
