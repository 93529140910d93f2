"""A study's arms as W&B sweep files, made from its search spaces, which stay the one source.

Each file runs with plain `wandb sweep FILE` and `wandb agent SWEEP` from the folder in which it was
written, `steelyard` being on PATH, and without a server by `steelyard sweep local FILE`. All its
settings are flat dotted keys with plain values, which arrive as options of `steelyard study trial`.

A whole number on a log scale is `q_log_uniform_values` with q = 1, which some servers hand out as
20.0: `study trial` reads that as 20.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from harness.errors import SpecError
from sweeps.following import OBJECTIVE
from sweeps.search import num_evaluations
from sweeps.space import Choice, FloatRange, IntRange, Parameter, Value
from sweeps.studyfile import OVER_STEPS, Study


def write_sweeps(study: Study, folder: Path) -> list[Path]:
    """Write STUDY.ARM.yaml for each tuned arm; return the paths.

    SpecError where a grid has not as many points as every arm has trials.
    """
    texts = {folder / f"{study.optuna_name(arm)}.yaml": text(study, arm, folder)
             for arm in study.asked.arms}  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in texts.items():
            path.write_text(content)
    except OSError as error:
        raise SpecError(f"--to: {folder} cannot be written: {error.strerror}") from None
    return list(texts)


def text(study: Study, arm: str, folder: Path) -> str:
    """Return an arm's file, with a head that says where it comes from."""
    head = [
        f"# {arm} of the study {study.asked.name}, as a W&B sweep. Generated: edit the study or",
        "# its search space instead, and run",
        f"#   steelyard sweep write {_from_here(study.path)} --to {_from_here(folder)}",
    ]
    if study.asked.arms[arm].wandb == "grid":
        points = study.asked.arms[arm].grid
        head.append(f"# Of every range {points} points, even on its own scale, ends included.")
    content: str = yaml.safe_dump(
        sweep(study, arm), sort_keys=False, default_flow_style=None, width=100
    )
    return "\n".join(head) + "\n" + content


def sweep(study: Study, arm: str) -> dict[str, Any]:
    """Return an arm's sweep as W&B reads it."""
    tuned, parameters = study.asked.arms[arm], study.parameters(arm)
    command = ["${env}", "steelyard", "study", "trial", _from_here(study.path), arm, "${args}"]
    found: dict[str, Any] = {
        "name": study.optuna_name(arm),
        "project": "steelyard",  # where all our runs go; WANDB_PROJECT says otherwise
        "program": "steelyard",
        "command": command,
        "method": tuned.wandb,
        "metric": {"name": OBJECTIVE, "goal": "minimize"},
        "run_cap": study.asked.trials,
    }
    if study.asked.pruner in OVER_STEPS:
        found["early_terminate"] = _early_terminate(study)
    if tuned.wandb == "grid":
        grid = {name: _points(parameter, tuned.grid) for name, parameter in parameters.items()}
        _check_size(study, arm, math.prod(len(points) for points in grid.values()))
        found["parameters"] = {name: {"values": points} for name, points in grid.items()}
    else:
        found["parameters"] = {name: _range(p) for name, p in parameters.items()}
    return found


def _early_terminate(study: Study) -> dict[str, Any]:
    """Return W&B's only rule, as near to the study's own pruner as it goes.

    Values are counted from that of the untrained model, which is number 0. As in the study itself,
    median ends nothing in the first half of a run.
    """
    if study.asked.pruner == "hyperband":
        return {"type": "hyperband", "min_iter": 1, "eta": 3}
    # the better half goes on
    return {"type": "hyperband", "min_iter": num_evaluations(study) // 2 + 1, "eta": 2}


def _range(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter under W&B's name for its distribution."""
    if isinstance(parameter, Choice):
        return {"values": list(parameter.values)}
    if parameter.step is not None:
        return {"values": _stepped(parameter)}  # W&B's steps start at 0, and not at the minimum
    bounds = {"min": parameter.low, "max": parameter.high}
    if isinstance(parameter, IntRange):
        if parameter.log:
            return {"distribution": "q_log_uniform_values", **bounds, "q": 1}
        return {"distribution": "int_uniform", **bounds}
    return {"distribution": "log_uniform_values" if parameter.log else "uniform", **bounds}


def _stepped(parameter: IntRange | FloatRange) -> list[Value]:
    """Return the values of a range that has steps."""
    assert parameter.step is not None
    number = math.floor((parameter.high - parameter.low) / parameter.step + 1e-9)
    found = (parameter.low + k * parameter.step for k in range(number + 1))
    return [x if isinstance(parameter, IntRange) else float(f"{x:.12g}") for x in found]


def _points(parameter: Parameter, number: int) -> list[Value]:
    """Return a few values of a parameter, even on its scale, both ends among them."""
    if isinstance(parameter, Choice):
        return list(parameter.values)
    low, high = float(parameter.low), float(parameter.high)
    found: list[Value] = []
    for k in range(number):
        share = k / (number - 1)
        point = low * (high / low) ** share if parameter.log else low + (high - low) * share
        if parameter.step is not None:
            point = low + round((point - low) / parameter.step) * parameter.step
        if 0 < k < number - 1:
            point = min(max(float(f"{point:.4g}"), low), high)  # to be read; an end stays as it is
        found.append(round(point) if isinstance(parameter, IntRange) else point)
    return list(dict.fromkeys(found))


def _check_size(study: Study, arm: str, size: int) -> None:
    if size == study.asked.trials:
        return
    raise SpecError(
        f"{study.path}: arms.{arm}.grid: gives {size} points, and every arm has trials = "
        f'{study.asked.trials}, no more and no fewer; change one of them, or set wandb = "random"'
    )


def _from_here(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    absolute, here = path.resolve(), Path.cwd().resolve()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()
