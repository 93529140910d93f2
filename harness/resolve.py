"""From an Ablation to one RunSpec per arm and seed: everything that was `auto` gets a value.

What is chosen depends on what the machine is, never on timings, so that resolving twice gives the
same run ids. Nothing here imports torch unless a CUDA device may be present.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Literal

from harness.api import Mixer
from harness.binding import bound
from harness.errors import SpecError
from harness.identity import digest
from harness.shapes import estimate_parameters
from harness.spec import Ablation, Arm, RunSpec

# Under this size one thread a run is fastest: several runs at once beat one run on all cores.
SMALL_PARAMETERS = 20_000_000


def resolve(
    ablation: Ablation, corpus_id: str, model_id: str = ""
) -> dict[tuple[str, int], RunSpec]:
    """Return the main RunSpec of every (label, seed), in the order of the spec.

    `model_id` is the fingerprint of `model.source`, which is a local folder by now.
    """
    device = _device(ablation)
    mixers = bound({label: arm.settings for label, arm in ablation.arms.items()})
    shared = {
        "corpus": ablation.corpus,
        "model": ablation.model,
        "batch": ablation.batch,
        "num_steps": num_steps(ablation),
        "optimizer": ablation.optimizer,
        "evaluation": ablation.evaluation,
        "targets": ablation.targets,
        "max_repetitions": ablation.max_repetitions,
        "device": device,
        "precision": _precision(ablation, device),
        "threads": _threads(ablation),
        "compile": ablation.compile,
        "corpus_id": corpus_id,
        "model_id": model_id,
        "engine": engine(),
    }
    return {
        (label, seed): _run_spec(shared, mixers[label], label, arm, seed)
        for label, arm in ablation.arms.items()
        for seed in ablation.seeds
    }


def _run_spec(shared: dict[str, object], mixer: Mixer, label: str, arm: Arm, seed: int) -> RunSpec:
    # keyed, not added: seed 0 + 1 would give this arm the order of the baseline's seed 1
    data_seed = seed if arm.data_seed is None else int(digest(f"{seed}/{arm.data_seed}"), 16) >> 1
    return RunSpec(**shared, mixer=mixer, label=label, seed=seed, data_seed=data_seed)  # type: ignore[arg-type]


def num_steps(ablation: Ablation) -> int:
    """Return the optimizer steps of the budget."""
    return ablation.num_steps


def engine() -> dict[str, str]:
    """Return the versions of what computes; results compare within a minor version of ours."""
    version = importlib.metadata.version
    minor = ".".join(version("steelyard").split(".")[:2])
    return {"steelyard": minor, "torch": version("torch"), "transformers": version("transformers")}


def _device(ablation: Ablation) -> Literal["cpu", "cuda"]:
    possible = Path("/proc/driver/nvidia/version").exists()
    if ablation.device == "cpu" or (ablation.device == "auto" and not possible):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if ablation.device == "cuda":
        raise SpecError('device: "cuda" was asked for and torch finds no GPU; use "cpu" or "auto"')
    return "cpu"


def _precision(ablation: Ablation, device: str) -> Literal["float32", "bfloat16"]:
    if ablation.precision != "auto":
        return ablation.precision
    return "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Tell whether the processor has units for bfloat16 products."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _threads(ablation: Ablation) -> int:
    if ablation.threads != "auto":
        return ablation.threads
    size = estimate_parameters(ablation.model, ablation.tokenizer.vocab_size)
    return 1 if size < SMALL_PARAMETERS else num_cores()


def num_fitting(spec: RunSpec) -> int:
    """Return how many such runs go at once: one on a GPU, else as many as have their threads."""
    return 1 if spec.device == "cuda" else max(1, num_cores() // spec.threads)


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
