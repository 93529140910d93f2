"""What ranks of a group share, however the model is held: rows, sums, decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from harness.api import Batch
from harness.ranks.one import Ranks, Value
from harness.records import RecordWriter, Unwritten

if TYPE_CHECKING:
    from torch import Tensor

    from harness.ranks.group import Group


class Many(Ranks):
    """One of several ranks; rows go to them in order, in equal parts."""

    def __init__(self, group: Group) -> None:
        """Stand in `group`, whose collectives are open."""
        self.group = group
        self.rank, self.size = group.rank, group.size

    def writer(self, path: Path, position: int) -> RecordWriter:
        """Return what writes records on the first rank, and nothing on the others."""
        return RecordWriter(path, position) if self.is_first else Unwritten()

    def threads(self, wanted: int) -> int:
        """Return an equal share of the threads, at least one."""
        return max(1, wanted // self.group.on_machine)

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's rows, filled up with zeros."""
        size = -(-len(whole) // self.size)
        part = whole[self.rank * size : (self.rank + 1) * size]
        if len(part) == size:
            return part
        return torch.cat([part, part.new_zeros(size - len(part), *part.shape[1:])])

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows; what fills up is the first token, of which no target counts."""
        fields = (batch.inputs, batch.targets, batch.mask, batch.domains, batch.rows)
        return Batch(*(self.part(one) for one in fields))

    def gathered(self, part: Tensor, num_rows: int) -> Tensor:
        """Return all ranks' parts in order."""
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)[:num_rows]

    def added(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' values."""
        total = part.clone()
        dist.all_reduce(total)
        return total

    def first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns on the first rank."""
        value: Value = self.group.first(make)
        return value

    def decided(self, value: Tensor) -> Tensor:
        """Return the first rank's value."""
        decided = value.clone()
        dist.broadcast(decided, src=0)
        return decided

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether any rank raises it."""
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def cause(self, error: BaseException, reason: str) -> str:
        """Tell the group; return what is behind the error."""
        return self.group.tell_failure(error, reason)
