"""Randomness has a name and a step: there is no generator state to save.

Every draw of a run comes from a generator keyed by (seed, name, ...). Resuming at step 700 needs
nothing from steps 0 to 699, and two arms that ask for the same thing get the same thing.
"""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, *name: str | int) -> int:
    """Return 63 bits that depend on the seed and on every part of the name."""
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, *name: str | int) -> torch.Generator:
    """Return a CPU generator keyed by (seed, *name); the global generator is left alone."""
    return torch.Generator().manual_seed(key(seed, *name))
