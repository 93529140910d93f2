"""One run alone, and as the one rank of a group: NCCL, DDP and FSDP2 on a device, by the program.

One GPU holds one rank of NCCL, so what is shown is that every collective works there and changes
nothing; that two ranks equal one is tested with gloo (tests/end_to_end/test_ranks.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPEC = """
name = "ranks"
seeds = [0]
target = "c"
baseline = "uniform"
device = "DEVICE"
precision = "PRECISION"
tokenizer = { vocab_size = 320 }
model = { size = "nano" }
batch = { rows = 8, tokens = 64 }
budget = { steps = 24 }
evaluation = { every = 8, rows = 8 }

[domains]
a = { kind = "synthetic", seed = 1 }
b = { kind = "synthetic", seed = 2 }
c = { kind = "synthetic", seed = 3 }

[arms.uniform]
method = "static"

[arms.doremi]
method = "doremi"

[arms.odm]
method = "odm"

[arms.influence]
method = "influence"
settings = { every = 8, rows = 2, probe_rows = 4, fidelity_every = 0 }
"""
RANK = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
HOWS = {
    "alone": ([], []),
    "ddp": (RANK, []),
    "fsdp": (RANK, ["--parallel=fsdp"]),
}


def ranks(folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """Run the spec in every way, all at once, and compare the records of every run."""
    folder.mkdir(parents=True)
    spec = folder / "ranks.toml"
    precision = "bfloat16" if device == "cuda" else "float32"
    spec.write_text(SPEC.replace("DEVICE", device).replace("PRECISION", precision))
    begun, found = time.monotonic(), {}
    started = {how: _started(folder / how, spec, *parts) for how, parts in HOWS.items()}
    try:
        for how, process in started.items():
            _, errors = process.communicate(timeout=150)
            found[how] = _records(folder / how)
            line = {"code": process.returncode, "seconds": round(time.monotonic() - begun, 1)}
            if process.returncode:
                line["error"] = " ".join(errors.split())[-400:]
            yield {"what": f"ranks: {how}", **line, **_apart(found["alone"], found[how])}
    finally:  # nothing is left on the device for the next part
        for process in started.values():
            process.terminate()  # which torchrun hands on to its rank
        for process in started.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(out: Path, spec: Path, launch: list[str], flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, *launch, "-m", "harness.cli", "run", str(spec), "--out", str(out)]
    return subprocess.Popen(
        [*command, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _records(out: Path) -> dict[str, list[dict[str, Any]]]:
    files = sorted(out.glob("runs/*/records.jsonl"))
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in files
    }


def _apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Tell how many runs have the same records but for their seconds, and how far steps differ."""
    losses, weights = [0.0], [0.0]
    for run_id in one.keys() & other.keys():
        for a, b in zip(one[run_id], other[run_id], strict=False):
            if a["kind"] == b["kind"] == "step":
                losses.append(abs(a["loss"] - b["loss"]))
                weights += [abs(x - y) for x, y in zip(a["weights"], b["weights"], strict=True)]
    return {
        "runs": len(other),
        "of": len(one),
        "equal": sum(_timeless(one[i]) == _timeless(other.get(i, [])) for i in one),
        "losses_apart": max(losses),
        "weights_apart": max(weights),
    }


def _timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]
