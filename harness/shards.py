"""A checkpoint's tensors in pieces, by torch.distributed.checkpoint: every rank writes what it has.

Beside checkpoint.pt, which names it, lies a folder with parameters and moments. Names are flat,
`model/NAME` and `optimizer/NUMBER/MOMENT`, so what a folder holds can be read from its metadata:
whole, by one process that needs no group, or in the pieces of any number of ranks.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def flattened(content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a checkpoint's large tensors by flat name, and the content without them."""
    moments = content["optimizer"]["state"]
    tensors = {f"model/{name}": value for name, value in content["model"].items()}
    tensors |= {f"optimizer/{i}/{k}": v for i, state in moments.items() for k, v in state.items()}
    return tensors, {**content, "model": {}, "optimizer": {**content["optimizer"], "state": {}}}


def filled(content: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the content with the tensors that `flattened` took from it."""
    model: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "model":
            model[rest] = value
        else:
            number, _, key = rest.partition("/")
            state.setdefault(int(number), {})[key] = value
    return {**content, "model": model, "optimizer": {**content["optimizer"], "state": state}}


def unused_name(path: Path, step: int) -> str:
    """Return the name of a folder beside the checkpoint `path` that is not there yet."""
    names = (f"{path.stem}-shards-{step}-{attempt}" for attempt in range(1_000_000))
    return next(name for name in names if not path.with_name(name).exists())


def remove_others(path: Path, kept: str) -> None:
    """Delete the folders of earlier checkpoints at `path`, and of those never finished."""
    for folder in path.parent.glob(f"{path.stem}-shards-*"):
        if folder.name != kept:
            shutil.rmtree(folder)


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the pieces of all ranks; each calls it."""
    from torch.distributed.checkpoint.state_dict_saver import save

    save(dict(tensors), checkpoint_id=folder)


def sizes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the size and the type of every tensor in a folder."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    found: dict[str, Any] = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: (known.size, known.properties.dtype) for name, known in found.items()}


def read_into(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill the tensors, or this rank's pieces of them; each rank calls it."""
    from torch.distributed.checkpoint.state_dict_loader import load

    load(tensors, checkpoint_id=folder)


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder, whole; no other rank takes part."""
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors = {
        name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes(folder).items()
    }
    with warnings.catch_warnings():  # that it reads in one process, which is meant
        warnings.filterwarnings("ignore", ".*single process.*")
        load(tensors, checkpoint_id=folder, no_dist=True)
    return tensors
