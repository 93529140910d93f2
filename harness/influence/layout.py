"""Where a transformer keeps its embeddings, its blocks and its final norm, found by structure.

No class is named: the blocks are the longest list of modules with matrices in it that lies in no
other such list (so experts inside a block are not taken for blocks), the trunk is the innermost
module that holds both them and the input embeddings, the final norm is the trunk's own child that
has vectors but no matrix. The price: two lists of one length, as an encoder and a decoder have, are
a choice that only the user can make, and says so; `blocks` names the list then.

LLaMA and Mistral: model.layers; GPT-2 and GPT-Neo: transformer.h; BERT and RoBERTa: encoder.layer;
OPT and its like: model.decoder.layers.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import nn

SOUGHT = "get_input_embeddings(), a ModuleList of blocks, and one module that holds both"


class Layout(NamedTuple):
    """Names of modules, as in named_modules()."""

    embeddings: str
    blocks: str  # the list
    num_blocks: int
    trunk: str  # "" is the model itself
    norm: str  # "" where there is none after the last block


def layout_of(model: nn.Module, blocks: str | None = None) -> Layout:
    """Return where things are; `blocks` gives the dotted name of the list, "" is found.

    ValueError, in one line, tells what was looked for and what there is.
    """
    name = block_list(model, blocks)
    if not name:
        raise ValueError(_unknown(model, "no list of blocks was found"))
    inside = _embeddings(model)
    if inside.startswith(name + "."):
        raise ValueError(_unknown(model, f"the embeddings {inside!r} lie in the blocks {name!r}"))
    paths = zip(inside.split("."), name.split("."), strict=False)
    trunk = ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], paths))
    listed = model.get_submodule(name)
    norm = _norm(model.get_submodule(trunk))
    norm = ".".join(part for part in (trunk, norm) if part) if norm else ""
    return Layout(inside, name, len(listed), trunk, norm)  # type: ignore[arg-type]


def block_list(model: nn.Module, name: str | None = None) -> str:
    """Return the name of the list of blocks, "" where there is none.

    ValueError where two lists could be meant, or where `name` is no list.
    """
    lists = _lists(model)
    if name:
        named = dict(model.named_modules()).get(name)
        if not isinstance(named, torch.nn.ModuleList) or not len(named):
            raise ValueError(_unknown(model, f"blocks: {name!r} is no ModuleList of this model"))
        return name
    longest = [found for found, size in lists.items() if size == max(lists.values())]
    if len(longest) > 1:
        which = " and ".join(longest)
        fix = "say which by the landmark estimators' `blocks`, or choose modules by name"
        raise ValueError(_unknown(model, f"{which} are of one length; {fix}"))
    return longest[0] if longest else ""


def block_prefixes(model: nn.Module, name: str | None = None) -> list[str]:
    """Return the name of each block with a dot behind it, none where there are no blocks."""
    found = block_list(model, name)
    if not found:
        return []
    return [f"{found}.{i}." for i in range(len(model.get_submodule(found)))]  # type: ignore[arg-type]


def _lists(model: nn.Module) -> dict[str, int]:
    """Return the length of each list of modules with matrices that lies in no other."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList) or name.startswith(
            tuple(f"{outer}." for outer in found)
        ):
            continue
        if all(any(p.ndim > 1 for p in block.parameters()) for block in module) and len(module):
            found[name] = len(module)
    return found


def _embeddings(model: nn.Module) -> str:
    getter: Any = getattr(model, "get_input_embeddings", None)  # torch's own modules have none
    if getter is None:
        raise ValueError(_unknown(model, "there is no get_input_embeddings()"))
    try:
        wanted = getter()
    except NotImplementedError:
        wanted = None
    for name, module in model.named_modules():
        if module is wanted:
            return str(name)
    raise ValueError(_unknown(model, "get_input_embeddings() returns no module of the model"))


def _norm(trunk: nn.Module) -> str:
    """Return the last child that has vectors alone: it comes after the blocks in all families."""
    found = ""
    for name, child in trunk.named_children():
        sizes = [parameter.ndim for parameter in child.parameters()]
        if sizes and max(sizes) == 1 and not list(child.children()):
            found = name
    return found


def _unknown(model: nn.Module, problem: str) -> str:
    lists = ", ".join(f"{name} ({size})" for name, size in _lists(model).items()) or "none"
    children = ", ".join(name for name, _ in model.named_children()) or "none"
    return (
        f"layout of {type(model).__name__}: {problem}; looked for {SOUGHT}; "
        f"lists: {lists}; children: {children}"
    )
