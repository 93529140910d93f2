"""Directions that are spread over ranks: made whole a module at a time, where one is needed whole.

With FSDP a direction is sharded as the parameters are. What is elementwise never notices; a module
that is differentiated by hand needs its own part whole, and gives it back at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def is_spread(tensor: Tensor) -> bool:
    """Tell whether each rank has a shard of the tensor."""
    return type(tensor) is not torch.Tensor and hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor; every rank must ask for it."""
    full: Tensor = tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return full
