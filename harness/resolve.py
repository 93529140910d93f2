"""From an Ablation to one RunSpec per arm and seed: everything that was `auto` gets a value.

What is chosen depends on what the machine is (harness/choices.py), never on timings, so that
resolving twice gives the same run ids.
"""

from __future__ import annotations

import importlib.metadata

from harness.api import Mixer
from harness.binding import bound
from harness.choices import SMALL_PARAMETERS, num_cores
from harness.identity import digest
from harness.settled import Settled, settle
from harness.shapes import estimate_parameters
from harness.spec import Ablation, Arm, RunSpec

# `python -m tests.bench.device --only small_runs` measures what several at once gain.
SMALL_RUNS_ON_A_GPU = 8


def resolve(
    ablation: Ablation, corpus_id: str, model_id: str = "", settled: Settled | None = None
) -> dict[tuple[str, int], RunSpec]:
    """Return the main RunSpec of every (label, seed), in the order of the spec.

    `model_id` is the fingerprint of `model.source`, which is a local folder by now.
    """
    settled = settled or settle(ablation)
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
        **settled._asdict(),
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


def num_fitting(spec: RunSpec) -> int:
    """Return how many such runs go at once: as many as have their threads, few on a GPU.

    There it is one, unless the model is so small that the GPU waits for its host most of the time.
    """
    most = max(1, num_cores() // spec.threads)
    if spec.device == "cpu":
        return most
    size = estimate_parameters(spec.model, spec.corpus.tokenizer.vocab_size)
    return min(most, SMALL_RUNS_ON_A_GPU) if size < SMALL_PARAMETERS else 1
