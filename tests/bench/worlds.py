"""Runs that benchmarks look into: a loop that is ready to step, on synthetic text or on real.

`loop_of` is for what only depends on shapes. `measured` is the world of the influence figures: four
layers, width 256, 4,096 tokens, rows of 128, three embedded domains, a few quick steps.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

from baselines.static import Static
from harness.assemble import assemble
from harness.corpus import corpus_id, open_corpus
from harness.loop import Loop
from harness.resolve import engine
from harness.spec import (
    Batching,
    Checkpoint,
    Corpus,
    Model,
    Optimizer,
    PackageDomain,
    RunSpec,
    SyntheticDomain,
    Tokenizer,
)

DOMAINS = {f"d{i}": SyntheticDomain(seed=i, num_documents=400) for i in range(5)}
REAL: dict[str, Any] = {
    "docstrings": PackageDomain(package="botocore", max_bytes=600_000),
    "code": PackageDomain(package="sympy", max_bytes=600_000),
    "licences": PackageDomain(package="licensedcode-data", max_bytes=600_000),
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "llama": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 688,
        "tie_word_embeddings": True,
    },
}
CORPUS = Corpus(domains=DOMAINS, tokenizer=Tokenizer(vocab_size=2048))


class Silent:
    """A watch that looks away."""

    def found(self, folder: Path) -> None:
        """Ignore it."""

    def begin(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def end(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Ignore it."""

    def record(self, record: dict[str, Any]) -> None:
        """Ignore it."""

    def stop(self) -> bool:
        """Never stop."""
        return False


def loop_of(
    out: Path,
    mixer: Any,
    size: str,
    tokens: int,
    steps: int,
    threads: int,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Loop:
    """Return a loop that is ready to step, without evaluation or checkpoints in time."""
    spec = RunSpec(
        corpus=CORPUS,
        corpus_id=corpus_id(CORPUS),
        model=Model(size=size),  # type: ignore[arg-type]
        batch=Batching(rows=16, tokens=tokens),
        num_steps=steps,
        optimizer=Optimizer(),
        evaluation=None,
        targets={"d4": 1.0},
        mixer=mixer,
        seed=0,
        data_seed=0,
        threads=threads,
        precision=precision,
        engine=engine(),
    )
    store = open_corpus(CORPUS, out / "corpora")
    folder = Path(tempfile.mkdtemp(dir=out))
    loop = assemble(spec, store, folder, no_model, Silent(), Checkpoint(minutes=None))
    loop.start()
    return loop


def no_model(run_id: str) -> Any:
    """Refuse: no method here asks for another run."""
    raise AssertionError(run_id)


@cache  # what is measured leaves a run as it was
def measured(
    out: Path, architecture: Literal["gpt2", "llama"], steps: int = 60, threads: int = 2
) -> Loop:
    """Return a run after `steps` steps on three embedded domains; its target is docstrings."""
    corpus = Corpus(domains=REAL, tokenizer=Tokenizer(vocab_size=4096))
    spec = RunSpec(
        corpus=corpus,
        corpus_id=corpus_id(corpus),
        model=Model(architecture=architecture, config=SHAPES[architecture]),
        batch=Batching(rows=16, tokens=128),
        num_steps=10**6,
        optimizer=Optimizer(schedule="constant"),
        evaluation=None,
        targets={"docstrings": 1.0},
        mixer=Static(),
        seed=0,
        data_seed=0,
        threads=threads,
        engine=engine(),
    )
    store = open_corpus(corpus, out / "corpora")
    folder = Path(tempfile.mkdtemp(dir=out))
    loop = assemble(spec, store, folder, no_model, Silent(), Checkpoint(minutes=None))
    loop.start()
    for _ in range(steps):
        loop.step()
    return loop
