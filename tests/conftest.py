"""Fixtures that any test may use. They import torch only where a test asks for one of them.

store      the tiny corpus of tests/tiny.py, built once per session
make_spec  make_spec(mixer=..., num_steps=...) -> RunSpec on that corpus
make_loop  make_loop(spec, folder=..., watch=..., open_model=..., every=...) -> Loop, not started
make_view  make_view(spec) -> RunView of a run before its first step
"""

from __future__ import annotations

import os
import signal

# Before anything imports them: no network, no questions, one thread (equal bits, and CI has few).
os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# A shell's background job ignores Ctrl-C, and so would what the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.corpus import TokenStore
    from harness.loop import Loop, Watch
    from harness.spec import Checkpoint, RunSpec
    from harness.view import RunView
    from tests.tiny import MakeLoop, MakeSpec, MakeView, OpenModel


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Return the tiny corpus, opened."""
    from harness.corpus import open_corpus
    from tests import tiny

    return open_corpus(tiny.corpus_spec(), tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="session")
def make_spec(store: TokenStore) -> MakeSpec:
    """Return a function from changes to the tiny RunSpec with them."""
    from tests import tiny

    def make(**changes: Any) -> RunSpec:
        return tiny.run_spec(store, **changes)

    return make


@pytest.fixture
def make_loop(store: TokenStore, tmp_path: Path) -> MakeLoop:
    """Return a function from a RunSpec to its assembled loop."""
    from tests import tiny

    numbers = count()

    def make(
        spec: RunSpec,
        folder: Path | None = None,
        watch: Watch | None = None,
        open_model: OpenModel | None = None,
        every: Checkpoint = tiny.ONLY_AT_THE_END,
    ) -> Loop:
        folder = folder or tmp_path / f"run-{next(numbers)}"
        return tiny.assemble_loop(spec, store, folder, watch, open_model, every)

    return make


@pytest.fixture
def make_view(make_spec: MakeSpec, make_loop: MakeLoop) -> MakeView:
    """Return a function from a RunSpec (the tiny one by default) to its view."""

    def make(spec: RunSpec | None = None) -> RunView:
        return make_loop(spec or make_spec()).view

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Return a function that makes a PostgreSQL database and returns its URL; skipped without."""
    from tests.postgres import server

    with server() as database:
        yield database
