"""Random numbers that are a function of their index: any part of a long sequence, on any device.

A key and an index go through the finalizer of SplitMix64 (Steele, Lea and Flood 2014), in 64-bit
integers that wrap around, so a CPU and a GPU agree to the bit and nothing is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

WORD = 64  # bits
# The constants of SplitMix64, as signed integers.
STRIDE = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def words(key: int, start: int, end: int, device: torch.device | str = "cpu") -> Tensor:
    """Return words start to end - 1 of the key's sequence, int64, all 64 bits random."""
    z = torch.arange(start, end, device=device) * STRIDE + key
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def integers(
    key: int, start: int, end: int, below: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return integers from 0 to below - 1, biased by no more than below / 2^63."""
    return words(key, start, end, device).bitwise_and(2**63 - 1).remainder(below)


def signs(key: int, start: int, end: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Return signs start to end - 1 of the key's sequence [end - start], 64 of them to a word."""
    first = start // WORD
    octets = words(key, first, -(-end // WORD), device).view(torch.uint8)
    # The table holds the eight signs of each byte, so that a word's bits need no shifting out.
    table = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)
    found = (1.0 - 2.0 * (table & 1)).to(dtype).index_select(0, octets.int()).flatten()
    return found[start - first * WORD : end - first * WORD]


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where >> would fill with the sign."""
    return (z >> bits).bitwise_and(2 ** (WORD - bits) - 1)
