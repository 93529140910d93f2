"""`python -m tests.bench.report`: how long a report of many runs takes, and what memory.

Writes made-up runs of ten arms, each of 1,000 steps with their records,
and builds their report in a process of its own, from importing to the last file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.reports.synthetic import run_id_of, write_out

ARMS = 10
MEASURE = """
import resource, sys, time
begin = time.perf_counter()
from reports.build import build
build(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{time.perf_counter() - begin:.1f} {time.process_time():.1f} {peak:.0f}")
"""


def write_runs(out: Path, num_runs: int, num_steps: int) -> None:
    """Write `num_runs` runs of `num_steps` steps: copies of a few, each with its own numbers."""
    seeds = num_runs // ARMS
    methods = {"uniform": 0.0, "influence": -0.06, "half": -0.09}
    write_out(out, num_seeds=1, num_steps=num_steps, effects=methods)
    path = out / "ablations" / "demo.json"
    header = json.loads(path.read_text())
    made: dict[str, Any] = {}
    for number in range(ARMS):
        like = ("uniform", "influence", "half")[min(number, 1 + number % 2)]
        label = like if number == 0 else f"{like}_{number}"
        source = out / "runs" / run_id_of("demo", like, 0)
        entry = header["arms"][like] | {"runs": []}
        for seed in range(seeds):
            run_id = f"{number:08x}{seed:08x}"
            _copy(source, out / "runs" / run_id, run_id, seed)
            run = {"seed": seed, "status": "finished", "run_id": run_id, "reason": None}
            entry["runs"].append(run | {"auxiliary": []})
        made[label] = entry
    path.write_text(json.dumps(header | {"arms": made, "seeds": list(range(seeds))}))


def _copy(source: Path, folder: Path, run_id: str, seed: int) -> None:
    """Copy a run; its evaluations get noise of their own, so that pairs differ."""
    folder.mkdir(parents=True)
    head = json.loads((source / "run.json").read_text())
    head |= {"run_id": run_id, "spec": {"seed": seed}}
    (folder / "run.json").write_text(json.dumps(head))
    generator = np.random.default_rng([int(run_id, 16) % 2**32, seed])
    lines = []
    for line in (source / "records.jsonl").read_text().splitlines():
        if '"kind": "eval"' in line:
            record = json.loads(line)
            record["bits_per_byte"] += 0.01 * generator.standard_normal()
            line = json.dumps(record)
        lines.append(line)
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Print seconds and peak megabytes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="keep the runs here, and use what is there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        if not (out / "ablations").exists():
            begin = time.perf_counter()
            write_runs(out, given.runs, given.steps)
            print(f"wrote {given.runs} runs in {time.perf_counter() - begin:.0f} s", flush=True)
        size = sum(path.stat().st_size for path in out.glob("runs/*/records.jsonl"))
        command = [sys.executable, "-c", MEASURE, str(out)]
        seconds, busy, peak = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()
        print(f"{given.runs} runs of {given.steps} steps, {size / 1e6:.0f} MB of records")
        print(f"report: {seconds} s ({busy} s of processor), {peak} MB at its peak")


if __name__ == "__main__":
    main()
