"""Gradient checkpointing for the training step alone: activations inside of blocks are not kept.

transformers' blocks do it themselves, when they believe that they train. Models here stay in
evaluation mode, since dropout has no place in a run, so the blocks are told for the length of a
forward pass; whoever else uses the model meets it as it was. The bits of a step do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from harness.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor


class Recomputing(nn.Module):
    """Calls a model whose blocks forget their activations."""

    def __init__(self, model: nn.Module) -> None:
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
        enable({"use_reentrant": False})

    def forward(self, **inputs: Tensor) -> Any:
        """Return what the model returns."""
        try:
            for block in self._blocks:
                block.training = True  # the block's own flag, not that of its dropout
            return self.model(**inputs)
        finally:
            for block in self._blocks:
                block.training = False
