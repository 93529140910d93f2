"""A point that a run can be picked up from, bit for bit.

Parameters, optimizer, mixer state and position travel in one file, written whole or not at all.
There is no generator to save (rng.py). Loading executes nothing: tensors and plain values only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness import shards
from harness.files import whole_file


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint over the last one."""
    with whole_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides it behind an assertion
                raise error.__context__ from None
            raise


def load(path: Path, device: str = "cpu", whole: bool = True) -> dict[str, Any] | None:
    """Return a checkpoint's content, or None where there is none.

    Of parameters and moments that ranks have written in pieces, `whole` makes the usual ones.
    """
    if not path.exists():
        return None
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if whole and "shards" in content:
        name = content.pop("shards")
        content = shards.filled(content, shards.read_whole(path.with_name(name)))
    return content
