"""Factors folders with spectra that are known, written with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

DAMPING = 0.1


def write_factors(
    folder: Path,
    lambdas: dict[str, Any],
    strategy: str = "ekfac",
    trace_ridge: float = 0.0,
    decisions: list[dict[str, str]] | None = None,
) -> Path:
    """Write factors of modules with these lambda matrices [O, I]; sides are rising integers."""
    folder.mkdir(parents=True)
    files, modules = [], {}
    for number, (module, matrix) in enumerate(lambdas.items()):
        matrix = np.asarray(matrix, dtype=np.float32)
        state = {}
        health: dict[str, Any] = {}
        if strategy in ("ekfac", "kfac"):
            for side, name, size in (
                ("A", "inputs", matrix.shape[1]),
                ("G", "gradients", matrix.shape[0]),
            ):
                values = np.arange(1, size + 1, dtype=np.float64)
                values += trace_ridge * values.sum()
                state[f"{side}_val:{module}"] = values.astype(np.float32)
                state[f"{side}_vec:{module}"] = np.eye(size, dtype=np.float32)
                health[name] = {"rung": "float64", "ridge": 0.0, "rank": size, "size": size}
                health[name] |= {"negative": 0, "min": 1.0, "max": float(size)}
        if strategy == "kfac":
            matrix = np.outer(state[f"G_val:{module}"], state[f"A_val:{module}"])
        else:
            state[f"lambda:{module}"] = matrix
        health["spectrum"] = {"mean": float(matrix.mean())}
        files.append(f"module-{number}.safetensors")
        save_file(state, folder / files[-1])
        modules[module] = health
    about = {"strategy": strategy, "trace_ridge": trace_ridge, "files": files}
    about["modules"] = list(lambdas)
    facts = {"rows": 50, "skipped_rows": 2, "damping": DAMPING, "damping_unit": "relative"}
    facts |= {"decisions": decisions or [], "modules": modules}
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "health.json").write_text(json.dumps(facts))
    return folder
