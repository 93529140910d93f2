"""Several small runs on one device at once, as processes, against the same runs one after another.

A small model leaves a GPU waiting for its host, so a second process fills the gaps. Streams in one
process would share one interpreter, which is what the device waits for; models stacked by vmap
would be other bits than a run alone, and no two arms of a grid share a step.

    python -m tests.bench.small_runs FOLDER INDEX DEVICE STEPS    one run: what the benchmark starts
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.bench.device_world import GPT2_SMALL, device_loop, settled, tiny

PATIENCE_SECONDS = 90


def work(folder: Path, index: int, device: str, steps: int, is_tiny: bool) -> None:
    """Get ready, and run `steps` steps for each round that this run is in."""
    torch.set_num_threads(1)
    loop = device_loop(tiny(GPT2_SMALL) if is_tiny else GPT2_SMALL, device)
    for _ in range(20):
        loop.step()
    settled(device)
    (folder / f"ready-{index}").touch()
    while True:
        for go in sorted(folder.glob("go-*")):
            size = int(go.name.partition("-")[2])
            done = folder / f"done-{size}-{index}"
            if index < size and not done.exists():
                start = settled(device)
                for _ in range(steps):
                    loop.step()
                done.write_text(json.dumps([start, settled(device)]))
        if (folder / "stop").exists():
            return
        time.sleep(0.005)


def runs_per_hour(
    folder: Path, sizes: tuple[int, ...], device: str, steps: int, is_tiny: bool = False
) -> dict[int, float]:
    """Return the seconds that `steps` steps of each of n runs take, all n at once."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.bench.small_runs", str(folder)]
    flags = [device, str(steps), *(["tiny"] if is_tiny else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, str(index), *flags], env=environment)
        for index in range(max(sizes))
    ]
    try:
        _wait(folder, [f"ready-{index}" for index in range(len(workers))], workers)
        found = {}
        for size in sizes:
            (folder / f"go-{size}").touch()
            names = [f"done-{size}-{index}" for index in range(size)]
            _wait(folder, names, workers)
            times = [json.loads((folder / name).read_text()) for name in names]
            # one clock: CLOCK_MONOTONIC is the machine's
            found[size] = max(end for _, end in times) - min(start for start, _ in times)
        return found
    finally:
        (folder / "stop").touch()
        for worker in workers:
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()


def _wait(folder: Path, names: list[str], workers: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all((folder / name).exists() and _is_whole(folder / name) for name in names):
        if any(worker.poll() for worker in workers):
            raise RuntimeError("small runs: a process failed; its error is above")
        if time.monotonic() > deadline:
            raise TimeoutError(f"small runs: {names} did not come in {PATIENCE_SECONDS} s")
        time.sleep(0.005)


def _is_whole(path: Path) -> bool:
    return path.name.startswith("ready") or path.read_text().endswith("]")


if __name__ == "__main__":
    where, number, on, count, *rest = sys.argv[1:]
    work(Path(where), int(number), on, int(count), "tiny" in rest)
