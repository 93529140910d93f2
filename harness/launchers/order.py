"""What a launcher is asked for, and the launchers by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.fleet import Job


@dataclass(frozen=True)
class Order:
    """Workers that are wanted."""

    words: tuple[str, ...]
    """The command line of each, without `steelyard`."""
    count: int
    cores: int
    """Of each worker."""
    gpus: int
    """Of each worker."""
    folder: Path
    """Where what they print is kept."""
    environment: Mapping[str, str]
    """What they need beside their own."""


def work(words: tuple[str, ...], cwd: str, environment: Mapping[str, str]) -> int:
    """Be a worker, in the folder that its paths are relative to; return the exit code."""
    os.chdir(cwd)
    os.environ.update(environment)
    if cwd not in sys.path:
        sys.path.insert(0, cwd)  # where a method of one's own may lie
    cli: Any = importlib.import_module("harness.cli")  # by name: it is above all that starts it
    return int(cli.main(list(words)))


def launcher(name: str, options: Any) -> Callable[[Order], list[Job]]:
    """Return the launcher of a name; SpecError where it cannot be used here."""
    module, package = {"slurm": ("slurm", "submitit"), "ray": ("ray_cluster", "ray")}[name]
    try:
        found: Any = importlib.import_module(f"harness.launchers.{module}")
    except ImportError as error:
        fix = f'pip install "steelyard[{name}]"'
        raise SpecError(f"--launcher: {name} needs {error.name or package}; {fix}") from None
    return found.open_launcher(options)  # type: ignore[no-any-return]
