"""A model's first blocks as a module of their own, on the run's own weights.

The copy has its own configuration, buffers and hooks, and the parameters of the run's model
themselves: nothing of a size is copied, and nothing of the run can change through it as long as
its parameters are only read or replaced in a functional call. The head is left out, the blocks
after the l-th are left out, the final norm stays, as in the code of arXiv:2505.19051.

Forward mode and double backward have no fused attention (on the CPU there is none at all), so
`attention = "eager"` writes it out: the same numbers up to rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from harness.influence.layout import layout_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.influence.derivatives import Functional


def trunk_of(
    model: nn.Module,
    layers: int,
    blocks: str | None = None,
    final_norm: bool = True,
    attention: str | None = None,
) -> nn.Module:
    """Return embeddings, the first `layers` blocks (0: all) and the final norm as one module.

    It takes input_ids and returns transformers' output. ValueError where there are fewer blocks.
    """
    layout = layout_of(model, blocks)
    if layers > layout.num_blocks:
        raise ValueError(f"layers is {layers}; {layout.blocks} has {layout.num_blocks} blocks")
    root, listed = model.get_submodule(layout.trunk), model.get_submodule(layout.blocks)
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    kept = [copy.deepcopy(block, memo) for block in list(listed.children())[: layers or None]]
    memo[id(listed)] = torch.nn.ModuleList(kept)
    if layout.norm and not final_norm:
        memo[id(model.get_submodule(layout.norm))] = torch.nn.Identity()
    trunk: nn.Module = copy.deepcopy(root, memo)
    _share_hooks(model, layout.trunk, trunk)
    if attention is not None:
        set_attention(trunk, attention)
    return trunk


def set_attention(model: nn.Module, attention: str) -> None:
    """Let every module of a copy compute its attention in this way, and experts one by one.

    Forward mode knows no grouped products of experts either.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)  # most modules keep none
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = attention
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"
        if hasattr(module, "_attn_implementation"):  # GPT-2 keeps a second note of it
            module._attn_implementation = attention  # type: ignore[assignment]


def hidden_states(trunk: nn.Module | Functional, inputs: Tensor) -> Tensor:
    """Return what comes after the last block of a trunk [B, T, H]."""
    output = trunk(input_ids=inputs, use_cache=False)
    hidden: Tensor | None = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.shape[:2] != inputs.shape:
        found = "nothing" if hidden is None else str(list(hidden.shape))
        raise ValueError(f"{type(output).__name__} has {found} as last_hidden_state [B, T, H]")
    return hidden


def pooled(hidden: Tensor, rows: Batch, pooling: str) -> Tensor:
    """Return one vector per row [B, H]: at its last counted token, or the mean over counted ones.

    Zero where no token counts.
    """
    mask = rows.mask
    if pooling == "mean":
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    else:
        places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        last = places.where(mask, -1).max(1).values  # -1 where none counts
        weights = places == last[:, None]
    weights = weights.to(hidden.dtype)  # [B, T]
    return (weights[:, None] @ hidden.where(mask[:, :, None], 0.0))[:, 0]


def _share_hooks(model: nn.Module, name: str, trunk: nn.Module) -> None:
    """Let the trunk see what hooks on the modules around it make of its arguments."""
    parts = name.split(".") if name else []
    for i in reversed(range(len(parts))):
        outer = model.get_submodule(".".join(parts[:i]))
        for key, hook in outer._forward_pre_hooks.items():
            trunk.register_forward_pre_hook(
                hook, with_kwargs=key in outer._forward_pre_hooks_with_kwargs, prepend=True
            )
