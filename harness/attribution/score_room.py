"""Whether there is room for a store on the disk, and for its queries in memory.

A gradient of every query is held, of all chosen parameters, and once more as what becomes of it.
Where that does not fit, the kernel ends the process without a word, after minutes of work.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.attribution.scorers import HOOKED
from harness.errors import SpecError
from harness.influence import selection

if TYPE_CHECKING:
    from harness.attribution.score_job import Job

NUMBER = 4  # bytes of a float32
WHOLE = (*HOOKED, "directional")  # kinds that hold each query's gradient, whatever their route


def check_room(job: Job) -> None:
    """Refuse a store that the disk, or queries that the memory, has no room for."""
    _check_disk(job)
    if job.chosen.kind not in WHOLE:
        return
    held = len(job.queries)
    if job.options.rank is not None:
        held = job.options.whole_queries
    needed, left = NUMBER * _numbers(job, held), memory(job.pool.device)
    if left is not None and needed > left:
        what = f"gradients of {held} queries for {job.chosen.label!r} take {_gb(needed)}"
        raise SpecError(f"{what}, {_gb(left)} are free; {_fix(job)}")


def _check_disk(job: Job) -> None:
    needed = NUMBER * sum(math.prod(shape) for shape in job.shapes.values())
    there = job.folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free:
        fix = "leave out modules and tokens, or score fewer rows"
        raise SpecError(
            f"scores of {job.chosen.label!r} need {_gb(needed)}, {_gb(free)} are free; {fix}"
        )


def _numbers(job: Job, held: int) -> int:
    """Return how many numbers `held` whole queries take, and all of them at a rank."""
    of, model = job.chosen.estimator, job.opened.view.model
    shapes = {name: p.shape for name, p in model.named_parameters()}
    if of.modules:  # else all parameters
        uses = selection.choose(model, of.modules, of.last_blocks, of.biases)
        chosen = {name for use in uses for name in (use.weight, use.bias) if name}
        shapes = {name: shape for name, shape in shapes.items() if name in chosen}
    # gradients, and what they become: preconditioned, or directions in a list and then stacked
    numbers = 2 * held * sum(shape.numel() for shape in shapes.values())
    rank = job.options.rank
    if rank is not None:  # blocks of queries, and then all of them in one
        numbers += 2 * len(job.queries) * sum(_ranked(s, rank) for s in shapes.values())
    return numbers


def _fix(job: Job) -> str:
    """Return what takes less memory."""
    chosen = job.chosen
    if chosen.is_hooked and job.options.rank is None:
        return "set scores.rank = 64, fewer queries or fewer modules"
    if chosen.is_hooked:
        return "set a lower scores.rank, fewer scores.whole_queries or fewer modules"
    where = f"scores.estimators.{chosen.label}"
    if chosen.strategy is None:
        return f"ask for fewer queries, or set {where}.modules"
    return f'ask for fewer queries, or set scores.rank and {where}.route = "hooks"'


def _ranked(shape: torch.Size, rank: int) -> int:
    """Return how many numbers a query's gradient of a parameter takes at a rank."""
    return min(shape.numel(), rank * sum(shape)) if len(shape) == 2 else shape.numel()


def memory(device: str) -> int | None:
    """Return free bytes where tensors go; None where nobody tells."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
