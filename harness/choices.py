"""Precision, threads and compilation, chosen from what the machine and the run are, with reasons.

Never from a timing: resolving twice gives the same run ids. Compiling costs half a minute on a CPU
and a minute on a GPU and saves a fifth to a half of every step, so it is chosen for runs whose
operations alone take several times as long as that. Their number is counted as 6 per parameter and
token; nothing here imports torch.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from harness.shapes import estimate_parameters

if TYPE_CHECKING:
    from harness.spec import Ablation

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]

# Under this size one thread a run is fastest: several runs at once beat one run on all cores.
SMALL_PARAMETERS = 20_000_000
# Operations of a run from which compiling pays: some 20 minutes of a CPU that does 2e11 a second,
# several minutes of a GPU that does 4e14. What it saves there is many times what it takes.
COMPILED_FROM: dict[Device, float] = {"cpu": 2e14, "cuda": 1e17}
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # the last is Arm's
VECTOR_UNITS = ("avx512f", "avx2", "asimd")
COMPILERS = ("c++", "g++", "clang++")
CPUINFO = Path("/proc/cpuinfo")
ASKED = "as the spec says"


class Chosen(NamedTuple):
    """What was chosen, each with the reason."""

    precision: Precision
    threads: int
    compile: bool
    reasons: dict[str, str]


def choose(ablation: Ablation, device: Device, cores: int | None = None) -> Chosen:
    """Return what is `auto` in the spec, by rule; `cores` are this process's unless given."""
    precision, why_precision = _precision(ablation, device)
    threads, why_threads = _threads(ablation, cores or num_cores())
    compiled, why_compile = _compile(ablation, device)
    why = {"precision": why_precision, "threads": why_threads, "compile": why_compile}
    return Chosen(precision, threads, compiled, why)


def _precision(ablation: Ablation, device: Device) -> tuple[Precision, str]:
    if ablation.precision != "auto":
        return ablation.precision, ASKED
    if device == "cuda":
        return "bfloat16", "a GPU has units for it"
    units = cpu_units(BFLOAT16_UNITS)
    if units:
        return "bfloat16", f"the CPU has {', '.join(units)}"
    return "float32", "the CPU has no bfloat16 units"


def _threads(ablation: Ablation, cores: int) -> tuple[int, str]:
    if ablation.threads != "auto":
        return ablation.threads, ASKED
    size = estimate_parameters(ablation.model, ablation.tokenizer.vocab_size)
    if size < SMALL_PARAMETERS:
        return 1, f"{size:.3g} parameters are few: several runs at once beat one on all cores"
    return cores, f"{size:.3g} parameters are enough for all cores"


def _compile(ablation: Ablation, device: Device) -> tuple[bool, str]:
    if ablation.compile != "auto":
        return ablation.compile, ASKED
    size = estimate_parameters(ablation.model, ablation.tokenizer.vocab_size)
    batch = ablation.batch
    operations = 6.0 * size * ablation.num_steps * batch.rows * batch.tokens
    least = COMPILED_FROM[device]
    if operations < least:
        return False, f"a run is {operations:.1e} operations, and compiling pays from {least:.0e}"
    if ablation.model.source is not None:
        return False, "a model from elsewhere may not compile"
    if not any(shutil.which(name) for name in COMPILERS):
        return False, f"there is no C++ compiler ({', '.join(COMPILERS)}) on PATH"
    if device == "cpu" and not cpu_units(VECTOR_UNITS):
        return False, f"the CPU has none of {', '.join(VECTOR_UNITS)}"
    return True, f"a run is {operations:.1e} operations, and compiling pays from {least:.0e}"


def cpu_units(wanted: tuple[str, ...]) -> list[str]:
    """Return which of these units the processor says it has; none where it cannot be asked."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return []
    flags = {
        word
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    return [unit for unit in wanted if unit in flags]


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
