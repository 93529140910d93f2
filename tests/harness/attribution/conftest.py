"""A finished run to attribute: a tiny GPT-2 trained on questions with answers, a row a document.

opened    the run, opened at its checkpoint
pool      every train row of it
queries   8 of its probe rows

They are shared by the whole session: attribution leaves a run as it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.attribution.opened import Opened
    from harness.attribution.rows import Pool, Queries

TOKENS = 24
SUBJECTS = ("river", "stone", "lamp", "forest", "engine", "harbor")
COLOURS = ("red", "green", "blue", "white")
PLACES = ("north", "south", "east")
# every fact has its own words, so that no document is a near-duplicate of another
FACTS = {
    f"What is the {subject} of the {place} like after {year}?": f"{colour} and {subject}ly, {year}"
    for i, subject in enumerate(SUBJECTS)
    for j, place in enumerate(PLACES)
    for k, colour in enumerate(COLOURS)
    for year in [1700 + 97 * i + 31 * j + 7 * k]
}


@dataclass(frozen=True)
class TinyRun:
    """Where the shared run lies."""

    out: Path
    folder: Path


def corpus_of(folder: Path) -> Any:
    """Write the questions as JSON lines; return the corpus of them."""
    from harness.spec import Corpus, FilesDomain, Splits, Tokenizer

    rows = (json.dumps({"q": q, "a": a}) + "\n" for q, a in FACTS.items())
    path = folder / "qa.jsonl"
    path.write_text("".join(rows))
    domain = FilesDomain(paths=(str(path),), prompt="Q: {q}\nA:", answer=" {a}")
    splits = Splits(probe=0.15, tuning=0.1, heldout=0.1)
    return Corpus(domains={"qa": domain}, splits=splits, tokenizer=Tokenizer(vocab_size=320))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Return the folders of the finished run."""
    from harness.api import Mixer
    from harness.corpus import open_corpus
    from harness.runner import Runner
    from harness.spec import Batching, Optimizer
    from tests import tiny

    out = tmp_path_factory.mktemp("attributed")
    corpus = corpus_of(out)
    store = open_corpus(corpus, out / "corpora")
    spec = tiny.run_spec(
        store,
        corpus=corpus,
        targets={"qa": 1.0},
        batch=Batching(rows=8, tokens=TOKENS, pack=False),
        num_steps=40,
        optimizer=Optimizer(learning_rate=1e-2),
        mixer=Mixer(),
    )
    Runner(out, store, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker()).ensure(spec)
    return TinyRun(out, out / "runs" / spec.run_id)


@pytest.fixture(scope="session")
def opened(tiny_run: TinyRun) -> Opened:
    """Return the run, opened."""
    from harness.attribution.opened import open_run

    return open_run(tiny_run.folder)


@pytest.fixture(scope="session")
def pool(opened: Opened) -> Pool:
    """Return its train rows."""
    return opened.pool()


@pytest.fixture(scope="session")
def queries(opened: Opened) -> Queries:
    """Return 8 of its probe rows."""
    from harness.attribution.rows import Queries, show

    batch = opened.view.probes(8, fixed=True)
    names = tuple(f"probe-{int(row)}" for row in batch.rows)
    return Queries(batch, tuple(show(batch, opened.tokenizer)), names, "probe-rows")
