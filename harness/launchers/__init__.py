"""Workers on other machines: `steelyard work`, started by Slurm or by Ray."""

from __future__ import annotations

from harness.launchers.order import Order, launcher

__all__ = ["Order", "launcher"]
