"""The baseline at a method's compute: longer by the steps that its overhead would have bought.

At equal training tokens a method's overhead is free. So where the spec asks for it, the baseline is
trained once more for each arm and seed whose overhead rounds to a step or more, with the learning
rate stretched over its steps; operations decide how many, since seconds depend on the machine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import read_json
from harness.plans import last_failure
from harness.records import HEADER
from harness.worker import Task

if TYPE_CHECKING:
    from harness.spec import Ablation, RunSpec

_OF_METHOD = ("train", "mixer")  # of an auxiliary run; evaluation and saving are the referee's


def tasks(
    ablation: Ablation,
    specs: dict[tuple[str, int], RunSpec],
    content: dict[str, Any],
    runs: Path,
) -> dict[tuple[str, int], Task]:
    """Return the baseline's run for each (arm, seed) whose overhead buys a step, by that pair.

    `content` is the ablation's file, `runs` the folder of its runs; cells that have not finished
    are left out. Arms that cost the same share a task.
    """
    shared: dict[tuple[int, int], Task] = {}
    found = {}
    for label, arm in content["arms"].items():
        for cell in arm["runs"]:
            if label == ablation.baseline or cell["status"] != "finished":
                continue
            if (label, cell["seed"]) not in specs:
                continue  # added by others since we came, and theirs to do
            steps = bought_steps(cell, runs)
            if steps:
                spec = specs[ablation.baseline, cell["seed"]]
                longer = spec.num_steps + steps
                key = (cell["seed"], longer)
                shared.setdefault(key, _task(ablation.baseline, spec, *key, runs.parent))
                found[label, cell["seed"]] = shared[key]
    return found


def bought_steps(cell: dict[str, Any], runs: Path) -> int:
    """Return how many steps of training a cell's overhead would have paid for, in FLOPs."""
    main = read_json(runs / cell["run_id"] / HEADER)
    overhead = float(main["costs"]["mixer"]["flops"])
    for run in cell["auxiliary"]:
        costs = read_json(runs / run["run_id"] / HEADER)["costs"]
        overhead += sum(costs[account]["flops"] for account in _OF_METHOD)
    step = float(main["costs"]["train"]["flops"]) / int(main["num_steps"])
    return round(overhead / step)


def _task(baseline: str, spec: RunSpec, seed: int, num_steps: int, out: Path) -> Task:
    label = f"{baseline}, {num_steps} steps"
    # text that repeats is what more compute buys: no cap on it
    longer = replace(spec, num_steps=num_steps, label=label, max_repetitions=None)
    return Task(label, seed, longer, last_failure(out, longer))
