"""Worlds small enough to train in a fraction of a second, for every test that needs a real run.

Synthetic trained domains a, b, c, ... and one more that is never trained on; a GPT-2 of 43 thousand
parameters; 12 steps of 8 rows of 32 tokens.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from torch import nn

from harness.api import Mixer
from harness.assemble import assemble
from harness.corpus import TokenStore, open_corpus
from harness.loop import Loop, Watch
from harness.model import RowFlops
from harness.spec import (
    Batching,
    Checkpoint,
    Corpus,
    Evaluation,
    Model,
    Optimizer,
    RunSpec,
    SyntheticDomain,
    Tokenizer,
)

SHAPE: dict[str, bool | int | float | str] = {"n_layer": 2, "n_embd": 32, "n_head": 2}
ONLY_AT_THE_END = Checkpoint(minutes=None)

OpenModel = Callable[[str], tuple[nn.Module, RowFlops]]


class Onlooker:
    """A Watch that keeps the records, and stops or kills a run after a given step."""

    def __init__(self, stop_after: int | None = None, kill_after: int | None = None) -> None:
        """Ask to stop after a step, or raise KeyboardInterrupt at its first record."""
        self.stop_after, self.kill_after = stop_after, kill_after
        self.records: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []

    def found(self, folder: Path) -> None:
        """Ignore that the run was there."""

    def begin(self, header: dict[str, Any]) -> None:
        """Keep the header."""
        self.headers.append(header)

    def end(self, header: dict[str, Any]) -> None:
        """Keep the header."""
        self.headers.append(header)

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Keep what was written before."""
        self.records += records

    def record(self, record: dict[str, Any]) -> None:
        """Keep the record."""
        self.records.append(record)
        if record["step"] == self.kill_after:
            raise KeyboardInterrupt

    def stop(self) -> bool:
        """Tell whether the step has come."""
        return bool(self.records) and self.records[-1]["step"] == self.stop_after


def corpus_spec(num_domains: int = 3) -> Corpus:
    """Return the corpus: 90 train rows and 5 to 12 rows of each other split per trained domain."""
    names = ascii_lowercase[: num_domains + 1]
    domains = {
        name: SyntheticDomain(
            seed=seed,
            num_documents=40,
            words_per_document=60,
            num_words=60,
            train=seed < num_domains,
        )
        for seed, name in enumerate(names)
    }
    return Corpus(domains=domains, tokenizer=Tokenizer(vocab_size=512))  # type: ignore[arg-type]


def run_spec(store: TokenStore, **changes: Any) -> RunSpec:
    """Return the tiny run on an opened corpus, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "corpus": corpus_spec(len(store.trained)),
        "model": Model(config=SHAPE),
        "batch": Batching(rows=8, tokens=32),
        "num_steps": 12,
        "optimizer": Optimizer(learning_rate=3e-3),
        "evaluation": Evaluation(every=4, rows=4),
        "targets": {store.domains[-1]: 1.0},
        "mixer": Mixer(),
        "seed": 0,
        "data_seed": 0,
        "corpus_id": store.id,
    }
    return RunSpec(**{**fields, **changes})


def no_other_run(run_id: str) -> tuple[nn.Module, RowFlops]:
    """Refuse to open a model: most methods need none."""
    raise AssertionError(f"the run {run_id} was asked for")


def assemble_loop(
    spec: RunSpec,
    store: TokenStore,
    folder: Path,
    watch: Watch | None = None,
    open_model: OpenModel | None = None,
    every: Checkpoint = ONLY_AT_THE_END,
) -> Loop:
    """Return a run's loop, ready to start or to resume what lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return assemble(spec, store, folder, open_model or no_other_run, watch or Onlooker(), every)


def stepped(loop: Loop, steps: int) -> Loop:
    """Return the loop after its first steps, its records on the disk."""
    loop.start()
    for _ in range(steps):
        loop.step()
    loop.close()
    return loop


@dataclass(frozen=True)
class World:
    """An opened tiny corpus, and where it lies."""

    folder: Path
    num_domains: int

    @property
    def store(self) -> TokenStore:
        """The corpus, built by the first who asks."""
        return open_corpus(corpus_spec(self.num_domains), self.folder)

    def spec(self, **changes: Any) -> RunSpec:
        """Return the tiny run with `changes`; its target is half trained on, half not."""
        store = self.store
        targets = {store.domains[0]: 0.5, store.domains[-1]: 0.5}
        return run_spec(store, **{"targets": targets, **changes})


@cache
def world(num_domains: int) -> World:
    """Return the world of so many trained domains, in a folder that goes when the process does."""
    folder = tempfile.TemporaryDirectory(prefix="steelyard-testing-")
    atexit.register(folder.cleanup)
    return World(Path(folder.name), num_domains)
