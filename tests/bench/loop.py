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
from harness.choices import BFLOAT16_UNITS, Precision, cpu_units
from harness.loop import Loop
from harness.model import build_model
from harness.optim import build_optimizer
from harness.records import RECORDS, read_records
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


def overhead(out: Path, steps: int, threads: int, repeats: int) -> list[tuple[str, ...]]:
    """Run the influence arm at its defaults and every 100 steps, in turns, and read the bills."""
    arms: dict[str, tuple[Influence, Precision, str]] = {
        "at its defaults": (Influence(), "float32", "<= 0.05"),
        "every 100 steps": (Influence(every=100), "float32", ""),
    }
    if cpu_units(BFLOAT16_UNITS):  # what a run on such a CPU is trained in
        arms["at its defaults, bfloat16"] = (Influence(), "bfloat16", "<= 0.05")
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    flops, refreshes = {}, {}
    for _ in range(repeats):
        for name, (mixer, precision, _asked) in arms.items():
            loop = loop_of(out, mixer, "nano", 64, steps, threads, precision)
            loop.run()
            train, spent = loop.meter.accounts["train"], loop.meter.accounts["mixer"]
            seconds[name].append(spent.seconds / train.seconds)
            flops[name], refreshes[name] = spent.flops / train.flops, int(loop.state["refreshes"])
    rows: list[tuple[str, ...]] = []
    for name, (*_, asked) in arms.items():
        what = f"influence {name}, overhead / training over {steps} steps"
        found = seconds[name]
        spread = f"{min(found):.3f} to {max(found):.3f}"
        rows.append((what + ", seconds", f"{sum(found) / len(found):.3f}", spread, asked))
        rows.append((what + ", FLOPs", f"{flops[name]:.3f}", f"{refreshes[name]} refreshes", asked))
    return [*rows, *_ranking(out, steps, threads)]


def _ranking(out: Path, steps: int, threads: int) -> list[tuple[str, ...]]:
    """Compare domains ranked by the default arm with exact scores of as many rows, each refresh."""
    loop = loop_of(out, Influence(fidelity_every=1, fidelity_rows=16), "nano", 64, steps, threads)
    loop.run()
    notes = [r for r in read_records(loop.folder / RECORDS) if r.get("name") == "fidelity"]
    found = [note["values"]["domain_spearman"] for note in notes]
    what = "Spearman of its five domains' scores with exact ones, 16 rows each"
    steps_of = ", ".join(str(note["step"]) for note in notes)
    return [
        (what, f"{sum(found) / len(found):.4f}", f"at steps {steps_of}", f"{min(found):.4f} least")
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
