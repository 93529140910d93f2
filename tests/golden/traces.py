"""What is traced: every fifth step of every method's main run, in the tiny world."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

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
    packages = ("torch", "numpy", "scipy", "transformers", "lightgbm")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {**versions, "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    known = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)  # the first core's
    fields = {key.strip(): value.strip() for key, value in known.items()}
    return ", ".join(fields.get(key, "") for key in ("model name", "cpu family", "model"))


def saved() -> dict[str, Any]:
    """Return the traces on record."""
    content: dict[str, Any] = json.loads(PATH.read_text())
    return content
