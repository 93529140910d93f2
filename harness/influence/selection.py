"""Which parameters an influence score looks at.

Modules are chosen by name and their parameters are what is scored. A parameter that several modules
share (a tied head) is one parameter: choosing one of the modules takes in the others, since the
gradient is the sum of what all of them contribute. A module counts when its forward pass is that of
nn.Linear, transformers' Conv1D or nn.Embedding; a subclass that computes something else does not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from harness.influence.layout import block_prefixes

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["linear", "conv1d", "embedding"]
PRESETS = ("linear", "mlp", "all")


class Use(NamedTuple):
    """One module whose parameters are scored."""

    name: str
    module: nn.Module
    kind: Kind
    weight: str  # the parameter's name in named_parameters(); "" if it is not scored
    bias: str  # the same, "" if there is none or it is left out


def largest(uses: list[Use]) -> int:
    """Return how many numbers the largest weight of these modules has."""
    return max(use.module.weight.numel() for use in uses)  # type: ignore[operator]


def choose(
    model: nn.Module,
    modules: tuple[str, ...] = ("linear",),
    last_blocks: int = 0,
    biases: bool = True,
    blocks: str | None = None,
) -> list[Use]:
    """Return the modules whose parameters are scored, in the model's order.

    Each entry of `modules` is "linear" (linear layers of the blocks, so neither the head nor the
    embeddings), "mlp" (those of them outside attention), "all" (linear layers and embeddings), or a
    regular expression that is searched in module names. `last_blocks` > 0 keeps the last n blocks;
    `blocks` names their list where it is not found by structure (harness/influence/layout.py).
    ValueError lists what there is where an entry matches nothing.
    """
    known = {name: kind for name, module in model.named_modules() if (kind := kind_of(module))}
    prefixes = block_prefixes(model, blocks)
    if last_blocks > len(prefixes):
        raise ValueError(f"last_blocks is {last_blocks}; the model has {len(prefixes)} blocks")
    kept = tuple(prefixes[-last_blocks:]) if last_blocks else ("",)
    found: set[str] = set()
    for pattern in modules:
        matches = {name for name in _matching(known, pattern, tuple(prefixes))}
        matches = {name for name in matches if name.startswith(kept)}
        if not matches:
            where = f" in the last {last_blocks} blocks" if last_blocks else ""
            there = ", ".join([*PRESETS, *known])
            raise ValueError(f"modules: {pattern!r} matches nothing{where}; there are {there}")
        found |= matches
    return _uses(model, known, found, biases)


def kind_of(module: nn.Module) -> Kind | None:
    """Return what sort of module this is, or None where its row gradient is not known."""
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


def _matching(known: dict[str, Kind], pattern: str, prefixes: tuple[str, ...]) -> list[str]:
    if pattern == "all":
        return list(known)
    if pattern not in PRESETS:
        try:
            return [name for name in known if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"modules: {pattern!r} is no regular expression: {error}") from error
    inside = [n for n, kind in known.items() if kind != "embedding" and n.startswith(prefixes)]
    return [n for n in inside if pattern == "linear" or not re.search(r"attn|attention", n)]


def _uses(model: nn.Module, known: dict[str, Kind], found: set[str], biases: bool) -> list[Use]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def named(module: nn.Module, parameter: str) -> str:
        return names.get(id(getattr(module, parameter, None)), "")

    modules = dict(model.named_modules())
    weights = {named(modules[name], "weight") for name in found}
    offsets = {named(modules[name], "bias") for name in found if biases} - {""}
    for name, module in modules.items():
        if name not in known and weights & {named(module, key) for key in module._parameters}:
            raise ValueError(f"modules: {name} shares a weight in a way that is not understood")
    uses = []
    for name, kind in known.items():
        weight, bias = named(modules[name], "weight"), named(modules[name], "bias")
        use = Use(
            name,
            modules[name],
            kind,
            weight if weight in weights else "",
            bias if bias in offsets else "",
        )
        if use.weight or use.bias:
            uses.append(use)
    return uses
