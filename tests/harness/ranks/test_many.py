"""How rows go to ranks and come back; the processes themselves: tests/end_to_end/test_ranks.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.api import Batch
from harness.ranks import Ranks
from harness.ranks.many import Many


def ranks(size: int) -> list[Many]:
    """Return the ranks of a group without processes."""
    groups: list[Any] = [SimpleNamespace(rank=r, size=size, on_machine=size) for r in range(size)]
    return [Many(group) for group in groups]


def batch(rows: int) -> Batch:
    """Return rows that count one target each."""
    tokens = torch.arange(1, rows * 4 + 1).view(rows, 4)
    mask = torch.ones(rows, 4, dtype=torch.bool)
    return Batch(tokens, tokens + 1, mask, torch.ones(rows).long(), torch.arange(rows))


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_parts_are_equally_long_and_hold_every_row_once(rows: int, size: int) -> None:
    """What fills up the last parts counts for nothing, and rows stay in order."""
    whole = batch(rows)
    parts = [rank.share(whole) for rank in ranks(size)]

    assert len({len(part.rows) for part in parts}) == 1
    assert torch.equal(torch.cat([part.inputs for part in parts])[:rows], whole.inputs)
    masks = torch.cat([part.mask for part in parts])
    assert torch.equal(masks[:rows], whole.mask)
    assert not masks[rows:].any()


def test_threads_are_shared_by_the_ranks_of_a_machine() -> None:
    """A run's threads are part of its id, so ranks divide them rather than multiply them."""
    assert [rank.threads(6) for rank in ranks(4)] == [1, 1, 1, 1]
    assert ranks(2)[0].threads(6) == 3
    assert Ranks().threads(6) == 6


def test_one_rank_has_every_row_itself() -> None:
    """Nothing is copied where there is nobody else: the bits and the time of one process."""
    alone, whole, losses = Ranks(), batch(3), torch.rand(3, 4)

    assert alone.share(whole) is whole
    assert alone.gathered(alone.part(losses), 3) is losses
    assert alone.added(losses) is losses
    assert alone.agreed(True, False) == (True, False)
    assert alone.first(lambda: 5) == 5
