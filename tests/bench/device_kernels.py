"""Which kernels a training step's time goes to, by PyTorch's profiler; what determinism costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.loop import Loop
from tests.bench.device_world import Size, device_loop, seconds_of

Line = dict[str, Any]
SHOWN = 16


def of_steps(loop: Loop, name: str, steps: int) -> Iterator[Line]:
    """Tell the kernels that take longest, in milliseconds a step and calls a step."""
    found = sorted(_profiled(loop, steps), key=lambda event: -_micros(event))
    total = sum(map(_micros, found))
    yield {
        "what": f"{name}: kernels of a step",
        "all_ms": round(total / steps / 1e3, 3),
        "launched": round(sum(event.count for event in found) / steps),
        "slowest": [
            [event.key[:90], round(_micros(event) / steps / 1e3, 3), round(event.count / steps, 1)]
            for event in found[:SHOWN]
        ],
    }


def attention(loop: Loop) -> list[str]:
    """Return the names of a step's attention kernels."""
    names = {event.key for event in _profiled(loop, 1)}
    return sorted(n[:70] for n in names if "flash" in n.lower() or "attention" in n.lower())[:8]


def determinism(size: Size, name: str, device: str, steps: int) -> Iterator[Line]:
    """Time eager steps with PyTorch's deterministic algorithms, as runs have them, and without."""
    loop = device_loop(size, device)
    found = {}
    try:
        for is_on in (True, False):
            torch.use_deterministic_algorithms(is_on)
            for _ in range(3):
                loop.step()
            found[is_on] = seconds_of(loop.step, device, 3, steps)
            yield from of_steps(loop, f"{name}, eager, {'' if is_on else 'not '}deterministic", 3)
    finally:  # also when the part's time is up
        torch.use_deterministic_algorithms(True)
        loop.close()
    yield {
        "what": f"{name}, eager: deterministic / not",
        "figure": round(found[True] / found[False], 4),
        "step_ms": round(1e3 * found[True], 3),
    }


def _profiled(loop: Loop, steps: int) -> list[Any]:
    is_cuda = loop.spec.device == "cuda"
    kinds = [ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        for _ in range(steps):
            loop.step()
        loop._catch_up()
        if is_cuda:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if is_cuda else torch.autograd.DeviceType.CPU
    return [event for event in profiler.key_averages() if event.device_type == kind]


def _micros(event: Any) -> float:
    return float(event.self_device_time_total or event.self_cpu_time_total)
