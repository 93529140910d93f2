"""What is traced: every fifth step of every method's main run, in the tiny world."""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from harness.records import RECORDS, read_records
from harness.testing import checks
from harness.testing.world import world
from tests.methods import REPLAYED, TINY

PATH = Path(__file__).parent / "traces.json"
STEPS = 50
EVERY = 5


def trace(name: str) -> dict[str, Any]:
    """Return losses and weights of a method's main run, and the runs that its plan asked for."""
    mixer = checks.settled(TINY[name], REPLAYED)
    with tempfile.TemporaryDirectory() as folder:
        carried = checks.carry_out(world(3), mixer, Path(folder), num_steps=STEPS)
        records = read_records(Path(folder) / "runs" / carried.main.run_id / RECORDS)
        steps = [r for r in records if r["kind"] == "step" and r["step"] % EVERY == 0]
    return {
        "runs": len(carried.specs),
        "losses": [step["loss"] for step in steps],
        "weights": [step["weights"] for step in steps],
    }


def provenance() -> dict[str, str]:
    """Return where numbers come from: elsewhere sums are rounded otherwise."""
    return {"torch": torch.__version__, "machine": platform.machine(), "processor": _processor()}


def _processor() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def saved() -> dict[str, Any]:
    """Return the traces on record."""
    content: dict[str, Any] = json.loads(PATH.read_text())
    return content
