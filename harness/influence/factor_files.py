"""Factors on disk: one safetensors file that appears whole, and is read where it lies.

Tensors of a loaded file are views of the mapped file: what is not used is never read, and factors
larger than memory can be scored with module by module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.files import write_json

if TYPE_CHECKING:
    from harness.api import State

FACTORS = "factors.safetensors"
HEALTH = "health.json"


def save_factors(folder: Path, state: State, health: dict[str, Any] | None = None) -> Path:
    """Write a fitted state, and its health beside it; return the factors' path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if health is not None:
        write_json(folder / HEALTH, health)
    path = folder / FACTORS
    part = path.with_name(f"{FACTORS}.part-{os.getpid()}")
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load_factors(folder: Path) -> State:
    """Return a state that was saved, mapped into memory; SpecError where there is none."""
    from safetensors import SafetensorError, safe_open

    path = folder / FACTORS
    if not path.exists():
        raise SpecError(f"{path}: no such file; fit the factors first")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SpecError(f"{path}: damaged: {error}; delete it and fit again") from None
