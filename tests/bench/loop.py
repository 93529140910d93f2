"""What the loop costs beside plain PyTorch, and what a method's overhead is at its defaults."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from baselines.influence import Influence
from baselines.static import Static
from harness import allocator
from harness.loop import Loop
from harness.model import build_model
from harness.optim import build_optimizer
from tests.bench.timing import interval, ratios
from tests.bench.worlds import loop_of


def bare_loop(loop: Loop) -> Callable[[], None]:
    """Return one step of the leanest PyTorch loop with the same model, rows, dtype and kernels."""
    spec = loop.spec
    vocabulary = loop.view.model.get_input_embeddings().weight.shape[0]
    model = build_model(spec.model, vocabulary, spec.batch.tokens, spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)
    batch = loop.view.candidates(16).select(slice(0, spec.batch.rows))

    def step() -> None:
        logits = model(input_ids=batch.inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def throughput(out: Path, pairs: int, block: int, threads: int) -> list[tuple[str, ...]]:
    """Compare a static arm's training step with the bare loop's."""
    rows = []
    # a mini step takes several nano steps, and its ratio varies less
    for size, tokens, count in (("nano", 64, pairs), ("mini", 128, pairs // 3)):
        loop = loop_of(out, Static(), size, tokens, 10**6, threads)
        mean, low, high = interval(list(ratios(loop.step, bare_loop(loop), count, block)))
        what = f"static arm / bare loop, tokens per second ({size}, 16 x {tokens})"
        rows.append((what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", "low >= 0.97"))
    return rows


def memory(out: Path, pairs: int, threads: int) -> list[tuple[str, ...]]:
    """Compare the bare loop where freed memory is kept with the same loop where it is not."""
    step = bare_loop(loop_of(out, Static(), "nano", 64, 10**6, threads))

    def switched(keep: bool) -> Callable[[], None]:
        def run() -> None:
            allocator.keep_memory(keep)
            step()

        return run

    mean, low, high = interval(list(ratios(switched(True), switched(False), pairs // 3, 5)))
    allocator.keep_memory()
    what = "bare loop with freed memory kept / given back (nano, 16 x 64)"
    return [(what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", "")]


def overhead(out: Path, steps: int, threads: int) -> list[tuple[str, ...]]:
    """Run the influence arm at its defaults, and read its bill."""
    loop = loop_of(out, Influence(), "nano", 64, steps, threads)
    loop.run()
    train, mixer = loop.meter.accounts["train"], loop.meter.accounts["mixer"]
    by_time, by_flops = mixer.seconds / train.seconds, mixer.flops / train.flops
    what = f"influence at its defaults, overhead / training over {steps} steps"
    return [
        (what + ", seconds", f"{by_time:.3f}", "", "<= 0.10"),
        (what + ", FLOPs", f"{by_flops:.3f}", "", ""),
    ]


def startup() -> list[tuple[str, ...]]:
    """Time the command that a user types first."""
    command = [sys.executable, "-m", "harness.cli", "--help"]
    times = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    spread = f"{min(times):.2f} to {max(times[1:]):.2f} s"
    return [
        ("steelyard --help (first call left out)", f"{min(times[1:]):.2f} s", spread, "< 0.6 s")
    ]
