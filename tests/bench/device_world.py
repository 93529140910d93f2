"""Runs on random tokens, of any vocabulary and size, and what a device could do at most.

A figure of a device means little without its floors: how long the operations would take at the rate
of a large product, and how long the bytes that have to move would take at the rate of a copy, both
measured on the same device. Bytes are counted as they are at least, in bfloat16: weights are read
as float32, written as bfloat16 and read in both passes (12 bytes a parameter), gradients are
written and read by the norm and the optimizer (12), whose state is read and written (24); logits
are written, read by the loss and written and read twice as gradients (10 bytes each); each block
leaves 34 bytes a token and hidden unit for the backward pass, written and read (arXiv:2205.05198,
with fused attention).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from baselines.static import Static
from harness.assemble import assemble
from harness.loop import Loop
from harness.spec import Batching, Checkpoint, Corpus, Model, Optimizer, RunSpec, SyntheticDomain
from tests.bench.worlds import Silent, no_model

DOMAINS = ("d0", "d1", "d2", "d3", "d4")
CORPUS = Corpus(domains={name: SyntheticDomain(seed=k) for k, name in enumerate(DOMAINS)})
# Operations a second in bfloat16, dense, by the maker's data sheet.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class RandomTokens:
    """A token store in memory: each domain prefers words of its own, by Zipf's law."""

    vocab_size: int
    tokens: int = 2_000_000
    trained: tuple[str, ...] = DOMAINS
    domains: tuple[str, ...] = DOMAINS
    mask_token: None = None
    id: str = "random"
    _streams: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def stream(self, domain: str, split: str) -> np.ndarray:
        """Return the domain's tokens."""
        if (domain, split) not in self._streams:
            seed = DOMAINS.index(domain), ("train", "probe", "tuning", "heldout").index(split)
            rng = np.random.default_rng(seed)
            size = self.tokens if split == "train" else 200_000
            ranks = rng.zipf(1.3, size) % self.vocab_size
            tokens = (ranks * (2 * seed[0] + 1)) % self.vocab_size
            self._streams[domain, split] = tokens.astype(np.int32)
        return self._streams[domain, split]

    def mask(self, domain: str, split: str) -> None:
        """Say that every token counts."""

    def documents(self, domain: str, split: str) -> np.ndarray:
        """Return where documents start."""
        return np.arange(0, len(self.stream(domain, split)), 1000)

    def num_bytes(self, domain: str, split: str) -> np.ndarray:
        """Return one byte for each token."""
        return np.ones(len(self.stream(domain, split)), dtype=np.uint8)


class Size(NamedTuple):
    """A model and its rows."""

    model: Model
    vocab_size: int
    rows: int
    tokens: int


GPT2_124M = Size(Model(size="124m"), 50304, 16, 1024)  # GPT-2's vocabulary, rounded up to 64
LLAMA_1B = Size(
    Model(
        architecture="llama",
        config={
            "num_hidden_layers": 16,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    32000,
    8,
    1024,
)
GPT2_SMALL = Size(Model(size="small"), 4096, 16, 128)
LLAMA_SMALL = Size(
    Model(
        architecture="llama",
        config={"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 688,
                "num_attention_heads": 4, "num_key_value_heads": 4},
    ),
    4096, 16, 128,
)  # fmt: skip
TINY = {"n_layer": 2, "n_embd": 32, "n_head": 2}
TINY_LLAMA = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64,
              "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


def tiny(size: Size) -> Size:
    """Return a size that a CPU takes through every line in seconds."""
    shape: dict[str, Any] = TINY if size.model.architecture == "gpt2" else TINY_LLAMA
    model = Model(architecture=size.model.architecture, config=shape)
    return Size(model, 256, 4, min(size.tokens, 32))


def device_loop(
    size: Size,
    device: str,
    mixer: Any = None,
    precision: str = "bfloat16",
    compiled: bool = False,
    steps: int = 10**6,
    open_model: Any = no_model,
    store: Any = None,
) -> Loop:
    """Return a loop that is ready to step, without evaluation."""
    spec = RunSpec(
        corpus=CORPUS,
        model=size.model,
        batch=Batching(rows=size.rows, tokens=size.tokens),
        num_steps=steps,
        optimizer=Optimizer(learning_rate=3e-4, schedule="constant"),
        evaluation=None,
        targets={"d4": 1.0},
        mixer=mixer or Static(),
        seed=0,
        data_seed=0,
        device=device,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        threads=torch.get_num_threads(),
    )
    store = store or RandomTokens(size.vocab_size)
    folder = Path(tempfile.mkdtemp())
    loop = assemble(spec, store, folder, open_model, Silent(), Checkpoint(minutes=None))
    loop.start()
    return loop


def settled(device: str) -> float:
    """Return the time, when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(call: Callable[[], Any], device: str, repeats: int = 3, count: int = 1) -> float:
    """Return the least seconds that one of `count` calls takes, over some repeats."""
    found = []
    for _ in range(repeats):
        start = settled(device)
        for _ in range(count):
            call()
        found.append((settled(device) - start) / count)
    return min(found)


class Device(NamedTuple):
    """What a device does at most, and what it is said to do."""

    name: str
    operations: float  # a second, bfloat16 product of two large matrices
    copied: float  # bytes a second, read and written
    peak: float  # operations a second by the data sheet, 0 where it is not known


def measured_device(device: str, is_tiny: bool) -> Device:
    """Measure both rates, in a second or two."""
    n = 512 if is_tiny else 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2**22 if is_tiny else 2**30, dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    for _ in range(3):
        a @ b
        other.copy_(big)
    product = seconds_of(lambda: a @ b, device, 5, 10)
    copy = seconds_of(lambda: other.copy_(big), device, 5, 10)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peak = next((rate for part, rate in PEAKS.items() if part in name), 0.0)
    return Device(name, 2 * n**3 / product, 2 * big.numel() / copy, peak)


class Floors(NamedTuple):
    """Seconds that a training step cannot go below."""

    operations: float
    bytes: float


def floors(loop: Loop, device: Device) -> Floors:
    """Return both floors of a loop's step; the module's docstring says what is counted."""
    spec, view = loop.spec, loop.view
    config: Any = view.model.config
    tokens = spec.batch.rows * spec.batch.tokens
    parameters = sum(p.numel() for p in view.model.parameters())
    blocks = 2 * 34 * config.num_hidden_layers * config.hidden_size * tokens
    moved = (12 + 12 + 24) * parameters + 10 * tokens * config.vocab_size + blocks
    return Floors(sum(view.row_flops) * spec.batch.rows / device.operations, moved / device.copied)
