"""Training and data at speed on a CPU: beside HF Trainer, bfloat16, the grid, tokens, memory.

Set-up is outside of everything but the time to a first step. What is compared takes turns.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.attention import SHORT, as_products
from harness.choices import BFLOAT16_UNITS, cpu_units
from harness.corpus.sources import find_source
from harness.corpus.store import at_random
from harness.corpus.tokenizer import encode, train_bpe
from harness.loop import Loop
from harness.spec import PackageDomain
from tests.bench.device_world import GPT2_SMALL, RandomTokens, device_loop
from tests.bench.exact import _status
from tests.bench.hugging_face import compared, lower_bound
from tests.bench.timing import Row, interval, ratios, seconds

# Prints the seconds from nothing to a first step: imports, corpus on the disk, model, step.
FIRST_STEP = """
import sys, time
from pathlib import Path
from baselines.static import Static
from tests.bench.worlds import loop_of
loop_of(Path(sys.argv[1]), Static(), "nano", 64, 100, 1).step()
"""

# Prints the bytes of a corpus's text, the most MiB that its build has held, and its documents.
BUILD = """
import sys, tempfile
from pathlib import Path
from harness.corpus import open_corpus
from harness.spec import Corpus, FilesDomain, PackageDomain
if sys.argv[1].isdigit():
    packages = ("sympy", "licensedcode-data", "botocore")
    size = int(sys.argv[1])
    domains = {p.split("-")[0]: PackageDomain(package=p, max_bytes=size) for p in packages}
else:
    domains = {"words": FilesDomain(paths=(sys.argv[1],))}
store = open_corpus(Corpus(domains=domains), Path(tempfile.mkdtemp()))
text = sum(facts["bytes_kept"] for facts in store.manifest["domains"].values())
status = Path("/proc/self/status").read_text().splitlines()
count = sum(facts["documents_kept"] for facts in store.manifest["domains"].values())
peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
print(text, peak, count)
"""


def corpus_memory() -> Iterator[Row]:
    """Measure the peak of building a small and a larger corpus, and what more text adds."""
    folder = Path(tempfile.mkdtemp())
    words = [str(_words(folder / f"{size}.jsonl", size)) for size in (30_000_000, 120_000_000)]
    kinds = {
        "packages, documents of 900 bytes": ["4000000", "30000000"],
        "invented words, documents of 6 kB": words,
    }
    for kind, given in kinds.items():
        (text, low, few), (more, high, many) = map(_built, given)
        added = (high - low) * 2**20
        spread = f"{low:.0f} MiB at {text / 1e6:.0f} MB, {high:.0f} at {more / 1e6:.0f}"
        yield f"memory of a corpus's build: {kind}", f"{added / (more - text):.2f} B", spread, ""
        each = f"{many - few:,.0f} documents more"
        yield "... the same, for a document more", f"{added / (many - few):.0f} B", each, ""


def _built(given: str) -> tuple[float, float, float]:
    """Return the bytes of the text, the peak in MiB, and the number of documents."""
    command = [sys.executable, "-c", BUILD, given]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(told[0]), float(told[1]), float(told[2])


def _words(path: Path, size: int) -> Path:
    """Write documents of invented words, some far more frequent than others."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (50_000, 9), dtype=np.uint8)
    words = [bytes(row[: 2 + i % 8]).decode() for i, row in enumerate(letters)]
    with path.open("w") as file:
        while size > 0:
            chosen = np.minimum(rng.zipf(1.2, 900), len(words)) - 1
            text = " ".join(words[i] for i in chosen)
            file.write(json.dumps({"text": text}) + "\n")
            size -= len(text)
    return path


def loop_at(precision: str, compiled: bool, threads: int) -> Loop:
    """Return the four-layer GPT-2's loop, compiled and warm."""
    torch.set_num_threads(threads)
    loop = device_loop(GPT2_SMALL, "cpu", precision=precision, compiled=compiled)
    for _ in range(4):
        loop.step()
    return loop


def trainer(blocks: int, block: int, threads: int) -> Iterator[Row]:
    """Compare with HF Trainer: same weights, rows, precision and AdamW kernel, in turns."""
    has_units = bool(cpu_units(BFLOAT16_UNITS))
    precision = "bfloat16" if has_units else "float32"
    cases = [("neither compiled", precision, False, False, "low >= 1.08"),
             ("ours compiled", precision, True, False, "low >= 1.25"),
             ("both compiled", precision, True, True, "")]  # fmt: skip
    if has_units:
        cases += [("neither compiled", "float32", False, False, ""),
                  ("ours compiled", "float32", True, False, ">= 2.2")]  # fmt: skip
    for name, theirs, ours_compiled, theirs_compiled, asked in cases:
        loop = loop_at(precision, ours_compiled, threads)
        found = compared(loop, blocks, block, 2, theirs_compiled, theirs)
        what = f"tokens per second in {precision} / HF Trainer's in {theirs}, {name}"
        spread = f"{found.low:.3f} to {found.high:.3f}; low {found.least:.3f}, {found.steps} steps"
        yield what, f"{found.mean:.3f}", spread, asked


def bfloat16(pairs: int, threads: int) -> Iterator[Row]:
    """Compare a step in bfloat16 with one in float32."""
    if not cpu_units(BFLOAT16_UNITS):
        yield "training step, float32 / bfloat16", "no bf16 units on this CPU", "", ""
        return
    for compiled in (False, True):
        half, whole = (loop_at(p, compiled, threads) for p in ("bfloat16", "float32"))
        mean, low, high = interval(list(ratios(half.step, whole.step, pairs, 5)))
        how = "compiled" if compiled else "eager"
        what = f"training step, float32 / bfloat16, {how}"
        yield what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", ""


def _train(pipe: Any, threads: int) -> None:
    """Run as many steps as the pipe says, and answer when they are done."""
    torch.set_num_threads(threads)
    loop = device_loop(GPT2_SMALL, "cpu", precision="float32")
    loop.step()
    pipe.send("ready")
    while steps := pipe.recv():
        for _ in range(steps):
            loop.step()
        pipe.send("done")


@contextmanager
def _trainers(threads: list[int]) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for count in threads:
        ours, theirs = context.Pipe()
        workers.append(context.Process(target=_train, args=(theirs, count)))
        workers[-1].start()
        pipes.append(ours)
    try:
        for pipe in pipes:
            pipe.recv()
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(0)
        for worker in workers:
            worker.join()


def grid(pairs: int, steps: int, cores: int) -> Iterator[Row]:
    """Compare runs at once, a thread each, with the same runs in turn on all threads."""
    with _trainers([*[1] * cores, cores]) as (*each, whole):
        found = []
        for i in range(pairs + 1):
            times = {}
            for at_once in (True, False) if i % 2 else (False, True):
                start = time.perf_counter()
                for pipe in each if at_once else [whole]:
                    pipe.send(steps if at_once else steps * cores)
                for pipe in each if at_once else [whole]:
                    pipe.recv()
                times[at_once] = time.perf_counter() - start
            found.append(times[False] / times[True])
    mean, low, high = interval(found[1:])
    what = f"{cores} runs one after another on {cores} threads / at once, a thread each"
    spread = f"{low:.3f} to {high:.3f}; low {lower_bound(found[1:]):.3f}, {pairs} pairs"
    yield what, f"{mean:.3f}", spread, "low > 1.0"


def tokenizing(repeats: int) -> Iterator[Row]:
    """Time encoding by a BPE trained here on code and licences, on all cores, ours and alone."""
    texts = [
        document.text
        for package in ("sympy", "licensedcode-data")
        for document in find_source(package, PackageDomain(package=package, max_bytes=10**7)).read()  # type: ignore[arg-type]
    ]
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = train_bpe(texts[:500], 4096)
    ways = {
        "": (lambda: encode(tokenizer, texts), ">= 20"),
        " by the tokenizers library alone": (lambda: tokenizer.encode_batch_fast(texts), ""),
    }
    for name, (way, asked) in ways.items():
        times = [seconds(way, 1) for _ in range(repeats)]
        spread = f"{size / max(times):.1f} to {size / min(times):.1f}"
        yield f"tokenizing {size:.0f} MB{name}, MB/s", f"{size / min(times):.1f}", spread, asked


def attention(pairs: int, threads: int) -> Iterator[Row]:
    """Compare PyTorch's fused attention with products, forward and backward, in bfloat16."""
    torch.set_num_threads(threads)
    for tokens in (32, 64, SHORT, 2 * SHORT):
        fused = _attend(tokens)
        mean, low, high = interval(list(ratios(as_products()(fused), fused, pairs, 3)))
        what = f"attention of {2048 // tokens} x {tokens} tokens, bfloat16, fused / products"
        asked = "> 1" if tokens <= SHORT else "<= 1, so fused"
        yield what, f"{mean:.2f}", f"{low:.2f} to {high:.2f}", asked


def _attend(tokens: int, heads: int = 4, width: int = 64) -> Callable[[], object]:
    """Make one pass there and back over 2,048 tokens, states and output laid out as GPT-2 does."""
    shape = (2048 // tokens, tokens, heads, width)
    states = torch.randn(*shape[:2], 3 * heads * width, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(*shape[:2], heads * width, dtype=torch.bfloat16)

    def attend() -> object:
        parts = (part.view(shape).transpose(1, 2) for part in states.chunk(3, -1))
        output = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        output = output.transpose(1, 2).reshape(gradient.shape)
        return torch.autograd.grad(output, states, gradient)

    return attend


@dataclass(frozen=True)
class MappedTokens(RandomTokens):
    """The same, its train tokens in files that are larger than what is read of them."""

    def stream(self, domain: str, split: str) -> np.ndarray:
        """Return the domain's tokens, mapped; a hole in a file reads as zeros."""
        if split != "train":
            return super().stream(domain, split)
        return _mapped(domain, self.tokens)


@cache
def _mapped(domain: str, tokens: int) -> np.ndarray:
    path = Path(tempfile.gettempdir()) / f"steelyard-bench-{domain}-{tokens}"
    with path.open("wb") as file:
        file.truncate(tokens * 4)
    found = at_random(np.memmap(path, dtype=np.int32, mode="r"))
    path.unlink()  # the map keeps it until it is closed
    return found


def mapped(steps: int, gigabytes: int) -> Iterator[Row]:
    """Measure resident memory while a run reads a corpus of many gigabytes by memory map."""
    tokens = gigabytes * 10**9 // 4 // 5
    store: Any = MappedTokens(4096, tokens=tokens)
    loop = device_loop(GPT2_SMALL, "cpu", precision="float32", store=store)
    for _ in range(20):
        loop.step()
    before = {name: _status(name) for name in ("RssAnon", "RssFile")}
    for _ in range(steps):
        loop.step()
    grown = {name: (_status(name) - size) / 1024 for name, size in before.items()}
    what = f"resident memory, {gigabytes} GB of tokens mapped: MiB more after {steps} steps"
    figures = f"anonymous {before['RssAnon'] / 1024:.0f} MiB before"
    parts = f"{grown['RssAnon']:.0f} anonymous, {grown['RssFile']:.0f} of files"
    yield what, parts, figures, "flat"


def first_step(out: Path, repeats: int) -> Iterator[Row]:
    """Time a process from its start to a first step, its corpus on the disk."""
    command = [sys.executable, "-c", FIRST_STEP, str(out)]
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    spread = f"{min(times[1:]):.1f} to {max(times[1:]):.1f} s"
    yield "process start to first step (nano)", f"{min(times[1:]):.1f} s", spread, "stated"
