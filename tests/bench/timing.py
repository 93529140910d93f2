"""Comparing two things fairly on a machine that others use too.

Nothing absolute is claimed. What is compared takes turns in short blocks; each pair of blocks gives
one ratio, and a figure is the geometric mean of ratios with its 95 % t interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from scipy import stats

Row = tuple[str, str, str, str]  # what, figure, its 95 % interval or range, what was asked


def seconds(step: Callable[[], None], count: int) -> float:
    """Return how long `count` steps take."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


def ratios(
    one: Callable[[], None], other: Callable[[], None], pairs: int, block: int
) -> Iterator[float]:
    """Yield time of `other` over time of `one`, block by block in turn."""
    warm = 1 if block == 1 else 5  # who asks for single calls has long ones
    seconds(one, warm)
    seconds(other, warm)
    for i in range(pairs):
        first, second = (one, other) if i % 2 else (other, one)
        times = {first: seconds(first, block), second: seconds(second, block)}
        yield times[other] / times[one]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean and its 95 % t interval."""
    logs = torch.tensor(values, dtype=torch.float64).log()
    half = stats.t.ppf(0.975, len(values) - 1) * float(logs.std()) / math.sqrt(len(values))
    middle = float(logs.mean())
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)
