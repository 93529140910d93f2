"""From the names in a spec to trackers: built in, or installed by others.

A package adds a tracker by an entry point, which is looked at only where a spec names it:

    [project.entry-points."steelyard.trackers"]
    mlflow = "my_package.module:open_tracker"

`open_tracker(out, warn)` returns a `harness.trackers.Tracker` for the output folder `out`; it
should import what it needs when a run starts, not before. `warn(text)` tells the user one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from harness.trackers.mirror import LOG_WARNING, Mirror, Tracker, Warn, first_line
from harness.trackers.tensorboard import open_tensorboard
from harness.trackers.wandb_mode import wandb_mode
from harness.trackers.weights_and_biases import open_wandb

ENTRY_POINTS = "steelyard.trackers"
Opener = Callable[[Path, Warn], Tracker]


def open_trackers(
    names: Sequence[str],
    out: Path,
    mode: str | None = None,
    warn: Warn = LOG_WARNING,
) -> Mirror:
    """Return a mirror of the named trackers; ValueError, before any work, where one cannot be.

    `mode` is W&B's, where it is settled; otherwise it is resolved from the environment.
    """
    built_in: dict[str, Opener] = {"wandb": open_wandb, "tensorboard": open_tensorboard}
    if "wandb" in names:
        resolved = wandb_mode(mode)
        built_in["wandb"] = partial(open_wandb, mode=resolved)
        names = [name for name in names if (name, resolved) != ("wandb", "disabled")]
    trackers = {n: built_in[n](out, warn) if n in built_in else _open(n, out, warn) for n in names}
    return Mirror(trackers, out, warn)


def _open(name: str, out: Path, warn: Warn) -> Tracker:
    """Open an installed tracker; whatever its package does wrong is one line for the user."""
    point = _installed(name)
    try:
        opener = point.load()
        tracker: Tracker = opener(out, warn)
        missing = [m for m in ("start", "log", "finish", "report") if not hasattr(tracker, m)]
        if missing:
            raise TypeError(f"what it opens has no method {missing[0]}")
    except Exception as error:
        of = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
        what = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"trackers: {name!r}{of} cannot be opened: {what}") from None
    return tracker


def _installed(name: str) -> EntryPoint:
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        others = sorted(found.names - {"wandb", "tensorboard"})
        known = ", ".join(["wandb", "tensorboard", *others])
        raise ValueError(f"trackers: {name!r} is unknown; use {known} or none")
    return found[name]
