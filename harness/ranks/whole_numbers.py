"""Numbers read off a tensor that is spread over ranks are those of the whole.

A sum over a sharded tensor is a tensor of which each rank has a part, and `float` of it would
silently be that part. A method that takes the dot product of two directions should not have to know
that, so whoever reads a number here gets the whole one. Each rank must read it: mixers run in step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode

READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__bool__,
    Tensor.__index__,
}


class WholeNumbers(TorchFunctionMode):
    """The mode in which they are; it stays on for as long as parameters are spread."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Gather what is read, and leave everything else as it is."""
        if func in READS and isinstance(args[0], DTensor):
            args = (args[0].full_tensor(), *args[1:])
        return func(*args, **(kwargs or {}))
