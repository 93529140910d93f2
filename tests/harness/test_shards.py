"""A checkpoint in pieces is the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import checkpoint, shards

CONTENT: dict[str, Any] = {
    "step": 7,
    "model": {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.int64)},
    "optimizer": {
        "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.rand(2, 3)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    },
    "mixer": {"weights": torch.ones(2)},
}


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_pieces_are_whole_again_for_any_reader(tmp_path: Path) -> None:
    """What `load` returns has the usual form, whoever has written it."""
    tensors, rest = shards.flattened(CONTENT)
    shards.write(tmp_path / "c-shards-7-0", tensors)
    checkpoint.save(tmp_path / "c.pt", {**rest, "shards": "c-shards-7-0"})

    found = checkpoint.load(tmp_path / "c.pt")

    assert found is not None
    assert found.keys() == CONTENT.keys()
    assert found["optimizer"]["param_groups"] == CONTENT["optimizer"]["param_groups"]
    for part, wanted in (
        (found["model"], CONTENT["model"]),
        (found["optimizer"]["state"][0], CONTENT["optimizer"]["state"][0]),
    ):
        assert part.keys() == wanted.keys()
        assert all(torch.equal(part[name], wanted[name]) for name in wanted)


def test_the_large_tensors_can_be_left_where_they_are(tmp_path: Path) -> None:
    """Who wants a mixer's state does not read a model."""
    _, rest = shards.flattened(CONTENT)
    checkpoint.save(tmp_path / "c.pt", {**rest, "shards": "c-shards-7-0"})

    found = checkpoint.load(tmp_path / "c.pt", whole=False)

    assert found is not None
    assert torch.equal(found["mixer"]["weights"], CONTENT["mixer"]["weights"])
    assert found["model"] == {}


def test_names_are_not_used_twice_and_old_folders_go(tmp_path: Path) -> None:
    """A folder that the last checkpoint names is never written over."""
    path = tmp_path / "c.pt"
    for name in ("c-shards-7-0", "c-shards-3-0", "best-shards-3-0"):
        (tmp_path / name).mkdir()

    assert shards.unused_name(path, 7) == "c-shards-7-1"
    assert shards.unused_name(path, 8) == "c-shards-8-0"
    shards.remove_others(path, "c-shards-7-0")
    left = {folder.name for folder in tmp_path.glob("*-shards-*")}
    assert left == {"c-shards-7-0", "best-shards-3-0"}
