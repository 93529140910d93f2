"""The workers of `steelyard run --launcher`: their command line, and what they are asked to have.

A login node differs from the nodes that train, so what `auto` stands for is settled here for what
the workers will have, and told to them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.fleet import Fleet
from harness.labor import Staff
from harness.launchers import Order, launcher
from harness.leases.opening import VARIABLE
from harness.settled import Settled, settle_for

if TYPE_CHECKING:
    from harness.run_forms import Run
    from harness.spec import Ablation


def launched(
    command: Run,
    ablation: Ablation,
    overrides: list[str],
    say: Callable[[str], None],
) -> Staff:
    """Return a staff of launched workers; SpecError where they cannot be."""
    name = command.launcher
    options: Any = command.slurm if name == "slurm" else command.ray
    for key in ("cores", "gpus"):
        least = 0 if key == "gpus" else 1
        if getattr(options, key) < least:
            raise SpecError(
                f"--{name}.{key}: must be at least {least}, got {getattr(options, key)}"
            )
    if command.detach and name != "slurm":
        raise SpecError("--detach: needs --launcher slurm, whose workers outlive this command")
    launch = launcher(name, options)
    settled = settle_for(ablation, options.cores, options.gpus, f"--{name}.gpus")
    order = Order(
        words=_words(command, overrides, settled, options.cores),
        count=command.jobs or 1,
        cores=options.cores,
        gpus=options.gpus,
        folder=(command.out / "launched").resolve(),
        environment=_environment(command.leases),
    )
    fleet = Fleet(lambda: launch(order), say, command.detach)
    return Staff(None, fleet, command.leases, command.grace, settled, joins=True)


def _words(command: Run, overrides: list[str], settled: Settled, cores: int) -> tuple[str, ...]:
    at_once = 1 if settled.device == "cuda" else max(1, cores // settled.threads)
    words = ["work", str(command.spec), "--out", str(command.out), "--jobs", str(at_once)]
    words += ["--grace", str(command.grace), "--settled", str(settled)]
    if not command.detach:
        words += ["--no-report"]
    if command.wandb_mode is not None:
        words += ["--wandb-mode", command.wandb_mode]
    return (*words, *overrides)


def _environment(leases: str | None) -> dict[str, str]:
    """Return what is no option of theirs: a URL may hold a password, and all can see options."""
    url = leases or os.environ.get(VARIABLE)
    return {} if url is None else {VARIABLE: url}
