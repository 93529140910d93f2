"""Mirrors of a run's records in other trackers; records.jsonl is the truth."""

from __future__ import annotations

from harness.trackers.mirror import Mirror, Tracker, Warn
from harness.trackers.opening import open_trackers
from harness.trackers.publish import publish_report
from harness.trackers.scalars import cost_scalars, flatten, is_auxiliary, run_name, scalars
from harness.trackers.sweep_run import ROWS, AgentRun, open_agent_run, take_agent_run
from harness.trackers.tensorboard import TensorBoardTracker
from harness.trackers.wandb_mode import (
    UNREACHABLE,
    WandbMode,
    resolve_wandb_mode,
    settle_wandb_mode,
)
from harness.trackers.weights_and_biases import WandbTracker

__all__ = [
    "ROWS",
    "UNREACHABLE",
    "AgentRun",
    "Mirror",
    "TensorBoardTracker",
    "Tracker",
    "WandbMode",
    "WandbTracker",
    "Warn",
    "cost_scalars",
    "flatten",
    "is_auxiliary",
    "open_agent_run",
    "open_trackers",
    "publish_report",
    "resolve_wandb_mode",
    "run_name",
    "scalars",
    "settle_wandb_mode",
    "take_agent_run",
]
