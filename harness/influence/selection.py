"""Which parameters an influence score looks at.

Modules are chosen by name and their parameters are what is scored. A parameter that several modules
share (a tied head) is one parameter: choosing one of the modules takes in the others, since the
gradient is the sum of what all of them contribute. A module counts when its forward pass is that of
nn.Linear, transformers' Conv1D or nn.Embedding, or an embedding times a number, as Gemma's is; a
subclass that computes something else does not.

So experts that are one parameter of three dimensions, and their routers, do not count. They are
left out, not refused: a refusal would come at a run's first refresh. The price: scores of less than
was asked for, which is told once and is in every record, with the share that is covered.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.influence.kinds import Kind, row_kind, scale_of
from harness.influence.layout import block_prefixes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from harness.api import Note

PRESETS = ("linear", "mlp", "all")


class Use(NamedTuple):
    """One module whose parameters are scored."""

    name: str
    module: nn.Module
    kind: Kind
    weight: str  # the parameter's name in named_parameters(); "" if it is not scored
    bias: str  # the same, "" if there is none or it is left out
    scale: float = 1.0  # what an embedding multiplies its vectors by


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
    ValueError lists what there is where an entry matches nothing; a warning tells of matrices that
    an entry means and that are left out.
    """
    known = {name: kind for name, module in model.named_modules() if (kind := row_kind(module))}
    found = _found(model, known, modules, last_blocks, blocks)
    uses = _uses(model, known, found, biases)
    missing = left_out(model, modules, last_blocks, blocks)
    if missing:
        what = f"{' '.join(modules)} leaves out {_listed(missing)}, whose row gradients"
        share = f"row gradients cover {covered(model, uses):.0%} of the parameters"
        # at one place for whoever chooses, so that Python shows it once
        warnings.warn(f"modules: {what} are not known; {share}", stacklevel=1)
    return uses


def left_out(
    model: nn.Module,
    modules: tuple[str, ...] = ("linear",),
    last_blocks: int = 0,
    blocks: str | None = None,
) -> list[str]:
    """Return names of the blocks' matrices that are meant and whose row gradients are not known."""
    prefixes = tuple(block_prefixes(model, blocks))
    matrices: dict[str, list[str]] = {}  # by the module that they belong to
    kinds: dict[str, Kind | None] = {}
    for name, module in model.named_modules():
        own = [
            f"{name}.{key}" for key, p in module._parameters.items() if p is not None and p.ndim > 1
        ]
        if own and name.startswith(prefixes[-last_blocks:]) and row_kind(module) is None:
            matrices[name] = own
            kinds[name] = "embedding" if isinstance(module, torch.nn.Embedding) else None
    meant = {name for pattern in modules for name in _matching(kinds, pattern, prefixes)}
    return [matrix for name in matrices if name in meant for matrix in matrices[name]]


def covered(model: nn.Module, uses: list[Use]) -> float:
    """Return the share of the model's parameters, number by number, that is scored."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    chosen = {name for use in uses for name in (use.weight, use.bias) if name}
    return sum(sizes[name] for name in chosen) / sum(sizes.values())


def coverage(
    model: nn.Module,
    modules: tuple[str, ...],
    last_blocks: int = 0,
    biases: bool = True,
    blocks: str | None = None,
) -> dict[str, Note]:
    """Return, for records, how many matrices are left out and what is covered; {} if none is."""
    missing = left_out(model, modules, last_blocks, blocks)
    if not missing:
        return {}
    uses = choose(model, modules, last_blocks, biases, blocks)
    return {"left_out": len(missing), "covered": covered(model, uses)}


def _found(
    model: nn.Module,
    known: dict[str, Kind],
    modules: tuple[str, ...],
    last_blocks: int,
    blocks: str | None,
) -> set[str]:
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
            beyond = left_out(model, (pattern,), last_blocks, blocks)
            why = f" but {_listed(beyond)}, whose row gradients are not known" if beyond else ""
            raise ValueError(f"modules: {pattern!r} matches nothing{where}{why}; there are {there}")
        found |= matches
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more if names else ""


def _matching(
    known: Mapping[str, Kind | None], pattern: str, prefixes: tuple[str, ...]
) -> list[str]:
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
        scale = scale_of(modules[name])
        use = Use(
            name,
            modules[name],
            kind,
            weight if weight in weights else "",
            bias if bias in offsets else "",
            1.0 if scale is None else scale,
        )
        if use.weight or use.bias:
            uses.append(use)
    return uses
