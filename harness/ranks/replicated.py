"""Ranks that each hold the whole model: DistributedDataParallel in the step, sums beside it.

DDP averages gradients. The loop's loss is a share of the global sum, so here they are added: the
sum of what ranks contribute is the gradient that one rank has. A method's View reads the model
itself, without DDP around it; whatever estimators do with it, by hooks, say, goes as on one rank.
"""

# No `from __future__ import annotations` here: DDP looks at the types of its hook.
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness import checkpoint
from harness.api import Direction
from harness.ranks.many import Many


class Replicated(Many):
    """One of several ranks with the whole model each."""

    parallel = "ddp"

    def network(self, model: nn.Module) -> nn.Module:
        """Return the model under DDP."""
        with warnings.catch_warnings():  # torch 2.13 has another word for it, 2.12 has not
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
            network = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        network.register_comm_hook(None, _add)
        self._network = network
        return network

    def adding(self, is_last: bool) -> AbstractContextManager[Any]:
        """Add up over ranks with the last pass alone."""
        return nullcontext() if is_last else self._network.no_sync()

    def gradient(self, model: nn.Module, losses: Iterable[Callable[[], Tensor]]) -> Direction:
        """Return the gradient of the sum over ranks, whole on every rank."""
        found = super().gradient(model, losses)
        flat = torch.cat([value.flatten() for value in found.values()])
        dist.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in found.values()])
        return {name: part.view_as(found[name]) for name, part in zip(found, parts, strict=True)}

    def save(self, path: Path, content: dict[str, Any]) -> None:
        """Write the checkpoint on the first rank: it holds everything."""
        if self.is_first:
            checkpoint.save(path, content)


def _add(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Replace DDP's average by a sum."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]
