"""Factors on disk: one safetensors file that appears whole, and is read where it lies.

Tensors of a loaded file are views of the mapped file: what is not used is never read, and factors
larger than memory can be scored with module by module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.files import part_of, write_json

if TYPE_CHECKING:
    from harness.api import State

FACTORS = "factors.safetensors"
HEALTH = "health.json"


def save_factors(folder: Path, state: State, health: dict[str, Any] | None = None) -> Path:
    """Write a fitted state, and its health beside it; return the factors' path."""
    folder.mkdir(parents=True, exist_ok=True)
    if health is not None:
        write_json(folder / HEALTH, health)
    save_state(folder / FACTORS, state)
    return folder / FACTORS


def load_factors(folder: Path) -> State:
    """Return a state that was saved, mapped into memory; SpecError where there is none."""
    return load_state(folder / FACTORS)


def save_state(path: Path, state: State, facts: dict[str, str] | None = None) -> None:
    """Write tensors, whole or not at all, and facts into the file's header."""
    from safetensors.torch import save_file

    part = part_of(path)
    try:
        save_file({name: value.contiguous() for name, value in state.items()}, part, facts)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_state(path: Path) -> State:
    """Return the tensors of a file, mapped into memory; SpecError where there are none."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise SpecError(f"{path}: no such file; fit the factors first")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SpecError(f"{path}: damaged: {error}; delete it and fit again") from None


def facts_of(path: Path) -> dict[str, str]:
    """Return the facts in a file's header; none where there is no such file, or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except (FileNotFoundError, SafetensorError):
        return {}
