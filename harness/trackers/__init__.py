"""Mirrors of a run's records in other trackers; records.jsonl is the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.trackers.mirror import LOG_WARNING, Mirror, Tracker, Warn
from harness.trackers.scalars import cost_scalars, flatten, scalars
from harness.trackers.weights_and_biases import WandbTracker, open_wandb, resolve_wandb_mode

__all__ = [
    "Mirror",
    "Tracker",
    "WandbTracker",
    "cost_scalars",
    "flatten",
    "open_trackers",
    "resolve_wandb_mode",
    "scalars",
]

_OPENERS: dict[str, Callable[[Path, str | None, Warn], Tracker | None]] = {"wandb": open_wandb}


def open_trackers(
    names: Sequence[str],
    out: Path,
    wandb_mode: str | None = None,
    warn: Warn = LOG_WARNING,
) -> Mirror:
    """Return a mirror of the named trackers; ValueError, before any work, where one cannot be."""
    trackers: dict[str, Tracker] = {}
    for name in names:
        if name not in _OPENERS:
            raise ValueError(f"trackers: {name!r} is unknown; use {', '.join(_OPENERS)} or none")
        if (tracker := _OPENERS[name](out, wandb_mode, warn)) is not None:
            trackers[name] = tracker
    return Mirror(trackers, out, warn)
