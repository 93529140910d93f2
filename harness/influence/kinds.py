"""What sort of module a module is, by what it computes, and whether its row gradient is known.

A class is told by its forward pass: a subclass that computes something else is of no kind. Scaled
embeddings are the exception, of which transformers has a class for each family: their gradient is
an embedding's times a number, so that Gemma's tied weight is no other case than GPT-2's. The price:
the number is believed by its name, `embed_scale`, and a look at a few tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from harness.influence.spread import is_spread

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["linear", "conv1d", "embedding"]
PROBED = 8  # tokens on which a scaled embedding is looked at


def kind_of(module: nn.Module) -> Kind | None:
    """Return what sort of module this is, or None where it is none of these."""
    from transformers.pytorch_utils import Conv1D

    forward = type(module).forward
    if forward is torch.nn.Linear.forward:
        return "linear"
    if forward is Conv1D.forward:
        return "conv1d"
    if forward is torch.nn.Embedding.forward:
        plain = module.max_norm is None and not module.scale_grad_by_freq
        return "embedding" if plain else None
    return None


def row_kind(module: nn.Module) -> Kind | None:
    """Return the kind by which a module's row gradient is taken, None where it is not known."""
    return kind_of(module) or (None if scale_of(module) is None else "embedding")


def scale_of(module: nn.Module) -> float | None:
    """Return what a scaled embedding multiplies its vectors by, None for any other module."""
    if not isinstance(module, torch.nn.Embedding) or not hasattr(module, "embed_scale"):
        return None
    weight: torch.Tensor = module.weight
    given: Any = module.embed_scale
    if module.max_norm is not None or module.scale_grad_by_freq or is_spread(weight):
        return None
    # a buffer is rounded as the weight is, before it multiplies
    scale = float(given.to(weight.dtype) if isinstance(given, torch.Tensor) else given)
    tokens = torch.arange(min(PROBED, len(weight)), device=weight.device)
    forward: Any = type(module).forward  # not the module itself, which may have hooks
    with torch.no_grad():
        same = torch.equal(forward(module, tokens), weight[tokens] * scale)
    return scale if same else None
