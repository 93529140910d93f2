"""What steelyard does on a device, part by part, the most telling first; each line as it comes.

    python -m tests.bench.device --out FOLDER [--seconds 270] [--only PART ...] [--tiny]

FOLDER/device.json is written anew after every line. A part that takes longer than its limit, or
would not fit into the seconds that are left, is given up and said to be. `--tiny` takes a CPU
through every line in a minute; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.bench import device_kernels, device_parts, device_ranks
from tests.bench.device_parts import Line, free
from tests.bench.device_world import (
    GPT2_124M,
    GPT2_SMALL,
    LLAMA_1B,
    LLAMA_SMALL,
    Device,
    Size,
    device_loop,
    measured_device,
    tiny,
)

NEVER = float("inf")
FOR_ALL = 270  # seconds in which all parts have their limits


class Part(NamedTuple):
    """What is measured, and for how long at most."""

    limit: int  # seconds, where all parts together have FOR_ALL
    needs: int  # seconds that must be left for it to be worth beginning
    lines: Callable[[], Iterator[Line]]


class Bench:
    """All parts, and what one leaves for another."""

    def __init__(self, device: str, is_tiny: bool, out: Path) -> None:
        self.device, self.is_tiny, self.out = device, is_tiny, out
        self.known = Device("", 1.0, 1.0, 0.0)
        self.step = NEVER  # seconds of the 124M's fastest step, once it is known

    def size(self, size: Size) -> Size:
        """Return the size to run."""
        return tiny(size) if self.is_tiny else size

    def parts(self) -> dict[str, Part]:
        """Return every part, in the order in which they run."""
        return {
            "device": Part(30, 5, self.about),
            "waits": Part(40, 10, lambda: device_parts.waits(self.device, self.size(GPT2_SMALL))),
            "gpt2_compiled": Part(90, 30, lambda: self.trained(GPT2_124M, "GPT-2 124M", 20, True)),
            "influence": Part(45, 15, lambda: self.influence(device_parts.by_gradients())),
            "llama_compiled": Part(110, 50, lambda: self.trained(LLAMA_1B, "LLaMA 1B", 8, True)),
            "small_runs": Part(70, 30, self.small_runs),
            "methods": Part(60, 20, lambda: device_parts.methods(self.device)),
            "scores": Part(50, 15, lambda: device_parts.scores(
                self.size(GPT2_SMALL), "GPT-2, 4 layers, 256", self.device, self.is_tiny)),
            "trainer": Part(40, 15, lambda: self.trainer(False)),
            "determinism": Part(30, 10, lambda: device_kernels.determinism(
                self.size(GPT2_124M), "GPT-2 124M", self.device, 2 if self.is_tiny else 10)),
            "ranks": Part(120, 60, lambda: device_ranks.ranks(
                Path(tempfile.mkdtemp()) / "ranks", self.device)),
            "gpt2": Part(30, 10, lambda: self.trained(GPT2_124M, "GPT-2 124M", 10, False)),
            "scores_llama": Part(50, 15, lambda: device_parts.scores(
                self.size(LLAMA_SMALL), "LLaMA, 4 layers, 256", self.device, self.is_tiny)),
            "landmarks": Part(90, 30, lambda: self.influence(
                device_parts.by_landmarks(self.is_tiny))),
            "overhead": Part(40, 15, lambda: device_parts.overhead(
                self.size(GPT2_SMALL), "GPT-2, 4 layers, 256", self.device,
                12 if self.is_tiny else 1000)),
            "overhead_124m": Part(90, 60, lambda: device_parts.overhead(
                self.size(GPT2_124M), "GPT-2 124M", self.device,
                12 if self.is_tiny else 1000, not self.is_tiny)),
            "trainer_compiled": Part(110, 60, lambda: self.trainer(True)),
        }  # fmt: skip

    def about(self) -> Iterator[Line]:
        """Measure the device itself."""
        self.known = measured_device(self.device, self.is_tiny)
        yield {
            "what": "device",
            "name": self.known.name,
            "torch": torch.__version__,
            "product_tflops": round(self.known.operations / 1e12, 1),
            "copy_gb_per_s": round(self.known.copied / 1e9),
            "peak_tflops": self.known.peak / 1e12,
        }

    def trained(self, size: Size, name: str, steps: int, compiled: bool) -> Iterator[Line]:
        """Time training, and remember the fastest step of the 124M."""
        size = self.size(size)
        steps = 2 if self.is_tiny else steps
        for line in device_parts.training(size, name, self.device, self.known, steps, compiled):
            if "step_ms" in line and name.startswith("GPT-2"):
                self.step = min(self.step, line["step_ms"] / 1e3)
            yield line

    def influence(self, arms: dict[str, Any]) -> Iterator[Line]:
        """Time refreshes of the 124M."""
        size = self.size(GPT2_124M)
        if self.step == NEVER:  # its own part was not asked for
            yield from self.trained(GPT2_124M, "GPT-2 124M", 20, True)
        yield from device_parts.influence(
            size, "GPT-2 124M", self.device, self.step, self.is_tiny, arms
        )

    def small_runs(self) -> Iterator[Line]:
        """Run several small runs at once."""
        from tests.bench.small_runs import runs_per_hour

        sizes, steps = ((1, 2), 20) if self.is_tiny else ((1, 2, 4, 8), 300)
        folder = Path(tempfile.mkdtemp()) / "runs"
        found = runs_per_hour(folder, sizes, self.device, steps, self.is_tiny)
        for count, seconds in found.items():
            yield {
                "what": f"{count} runs of GPT-2, 4 layers, 256, at once, as processes",
                "seconds": round(seconds, 3),
                "runs_per_hour_over_one_after_another": round(count * found[1] / seconds, 3),
            }

    def trainer(self, compiled: bool) -> Iterator[Line]:
        """Compare with Hugging Face's Trainer, both eager or both compiled."""
        from tests.bench.hugging_face import compared

        loop = device_loop(self.size(GPT2_124M), self.device, compiled=compiled)
        for _ in range(3):
            loop.step()
        blocks, block = (3, 2) if self.is_tiny else (10, 10)
        found = compared(loop, blocks, block, 1 if self.is_tiny else 2, compiled)
        loop.close()
        how = "both compiled" if compiled else "neither compiled"
        yield {"what": f"tokens per second over HF Trainer's, bf16, {how}", **_rounded(found)}


def _rounded(found: Any) -> Line:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in found._asdict().items()}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what runs for longer."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Run the parts, print every line, and keep them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=FOR_ALL, help="for all parts together")
    parser.add_argument("--only", nargs="+", default=[], help="names of parts; all by default")
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        parser.error("there is no GPU here; give --tiny to try the script")
    torch.set_num_threads(min(8, torch.get_num_threads()))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks once, at a product
    began, kept = time.monotonic(), []
    more = max(1.0, options.seconds / FOR_ALL) * (10 if options.tiny else 1)
    every = Bench(device, options.tiny, options.out).parts()

    def keep(part: str, line: Line) -> None:
        kept.append({"part": part, "at": round(time.monotonic() - began, 1), **line})
        print(json.dumps(kept[-1]), flush=True)
        (options.out / "device.json").write_text(json.dumps(kept, indent=1))

    for name in options.only or every:
        part = every[name]
        left = options.seconds - (time.monotonic() - began)
        if left < part.needs:
            keep(name, {"what": "left out", "seconds_left": round(left)})
            continue
        try:
            free(device)
            with limited(min(part.limit * more, left)):
                for line in part.lines():
                    keep(name, line)
        except TimeoutError:  # the part's own clock, or a run that did not come
            keep(name, {"what": "given up", "limit": round(min(part.limit * more, left))})
        except Exception as error:  # the next part is worth its time all the same
            keep(name, {"what": "failed", "error": device_parts._short(error)})


if __name__ == "__main__":
    main()
