"""Gradient checkpointing for the training step alone: activations inside of blocks are not kept.

transformers' blocks do it themselves, when they believe that they train. Models here stay in
evaluation mode, since dropout has no place in a run, so the blocks are told for the length of a
forward pass; whoever else uses the model meets it as it was. The bits of a step do not change.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from harness.attention import short_rows
from harness.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor


class Recomputing(nn.Module):
    """Calls a model whose blocks forget their activations."""

    def __init__(self, model: nn.Module, is_compiled: bool = False) -> None:
        """Prepare a transformers model; SpecError where its blocks cannot do it."""
        super().__init__()
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.model = model
        self._blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self._blocks or not getattr(model, "supports_gradient_checkpointing", False):
            kind = type(model).__name__
            raise SpecError(f"batch.recompute: {kind} has no blocks that can; set it to false")
        new = getattr(model, "activation_checkpointing_enable", None)
        enable: Any = new or model.gradient_checkpointing_enable
        self._inputs: Tensor | None = None
        # a compiler traces both passes inside of the form that attention has, and takes no function
        again = {} if is_compiled else {"context_fn": self._as_before}
        enable({"use_reentrant": False, **again})

    def forward(self, **inputs: Tensor) -> Any:
        """Return what the model returns."""
        self._inputs = inputs["input_ids"]
        try:
            for block in self._blocks:
                block.training = True  # the block's own flag, not that of its dropout
            return self.model(**inputs)
        finally:
            for block in self._blocks:
                block.training = False

    def _as_before(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return what a block runs in, and runs again in: PyTorch restores all but attention."""
        assert self._inputs is not None
        return nullcontext(), short_rows(self._inputs)
