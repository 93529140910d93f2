"""Ranks that each hold a share of every parameter: FSDP2, for a model that one device cannot hold.

Parameters, gradients, moments and a method's directions are DTensors, sharded alike, so what is
computed element by element needs no word of it. Blocks of a model are gathered one at a time, when
they run, and given back at once. The model is built whole in each rank's host memory, keyed as on
one rank, and goes from there to the device in pieces. Parameters are moved in place for a finite
difference, and put back to the bit: gathered ones would not fit twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from harness import checkpoint, shards
from harness.ranks.many import Many
from harness.ranks.whole_numbers import WholeNumbers

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Direction
    from harness.ranks.group import Group


class Sharded(Many):
    """One of several ranks with a share of the model each."""

    parallel = "fsdp"

    def __init__(self, group: Group) -> None:
        """Stand in `group`; from now on numbers are read whole, in this process."""
        super().__init__(group)
        WholeNumbers().__enter__()  # type: ignore[no-untyped-call]
        # an estimator's hooks return views, and nothing is written into them
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")

    def placed(self, model: nn.Module, device: str) -> nn.Module:
        """Return the model with every parameter spread over the ranks."""
        mesh = init_device_mesh(device, (self.size,))
        for module in (*_blocks(model), model):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # add gradients up; the loss is a share of a sum
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        return model

    def gradient(self, model: nn.Module, losses: Iterable[Callable[[], Tensor]]) -> Direction:
        """Return the gradient of the sum over ranks, sharded; a step's own is left as it is."""
        parameters = dict(model.named_parameters())
        kept = {name: parameter.grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
        try:
            for loss in losses:
                loss().backward()  # type: ignore[no-untyped-call]
            return {
                name: torch.zeros_like(p) if p.grad is None else p.grad
                for name, p in parameters.items()
            }
        finally:
            for name, parameter in parameters.items():
                parameter.grad = kept[name]

    @contextmanager
    def moved(self, model: nn.Module, along: Direction, eps: float) -> Iterator[Any]:
        """Move the shards along, and put them back."""
        parameters: dict[str, Any] = {
            n: p.detach() for n, p in model.named_parameters() if isinstance(p, DTensor)
        }
        if not parameters:  # a finished run's, which is whole
            with super().moved(model, along, eps) as shifted:
                yield shifted
            return
        kept = {name: parameter.to_local().clone() for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                own: Any = along[name]
                own = own.redistribute(placements=parameter.placements)
                parameter.to_local().add_(own.to_local(), alpha=eps)
            yield model
        finally:
            for name, parameter in parameters.items():
                parameter.to_local().copy_(kept[name])

    def whole(self, value: Tensor) -> Tensor:
        """Return a number that is spread over the ranks."""
        return value.full_tensor() if isinstance(value, DTensor) else value

    def save(self, path: Path, content: dict[str, Any]) -> None:
        """Write each rank's pieces, then what names them: the last checkpoint counts till then."""
        tensors, rest = shards.flattened(content)
        name = self.first(lambda: shards.unused_name(path, content["step"]))
        shards.write(path.with_name(name), tensors)
        dist.barrier()
        if self.is_first:
            checkpoint.save(path, {**rest, "shards": name})
            shards.remove_others(path, name)

    def load(self, path: Path) -> dict[str, Any] | None:
        """Return a checkpoint's content, without the tensors that ranks have written in pieces."""
        found = checkpoint.load(path, whole=False)
        return None if found is None else {**found, "folder": path.parent}

    def restore(
        self, saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put parameters and moments back, from pieces or from the whole."""
        members = [p for group in optimizer.param_groups for p in group["params"]]
        if "shards" in saved:
            folder = saved["folder"] / saved["shards"]
            tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
            for name, (size, dtype) in shards.sizes(folder).items():
                kind, _, rest = name.partition("/")
                if kind == "optimizer":
                    like = members[int(rest.partition("/")[0])].detach()
                    is_moment = size == like.shape
                    tensors[name] = (
                        torch.zeros_like(like) if is_moment else torch.zeros(size, dtype=dtype)
                    )
            shards.read_into(folder, tensors)
            saved = shards.filled(saved, tensors)
        else:
            own = model.state_dict()
            state = {
                i: {key: _as(value, members[i]) for key, value in moments.items()}
                for i, moments in saved["optimizer"]["state"].items()
            }
            parts = {name: _as(value, own[name]) for name, value in saved["model"].items()}
            saved = {"model": parts, "optimizer": {**saved["optimizer"], "state": state}}
        super().restore(saved, model, optimizer)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of a model's outermost lists of modules: its layers."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _as(value: Tensor, like: Tensor) -> Tensor:
    """Return this rank's shard of a whole tensor, where `like` is sharded and of its shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    whole = value.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
