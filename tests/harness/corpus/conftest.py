"""Small corpora for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import harness.corpus.opening as opening
from harness.corpus import TokenStore, open_corpus
from harness.corpus.documents import Document
from harness.corpus.sources import Source
from harness.spec import Corpus, SyntheticDomain, Tokenizer


@pytest.fixture(scope="session")
def small_spec() -> Corpus:
    """Return the spec of three synthetic domains, one of them not trained on."""
    return Corpus(
        domains={
            "b": SyntheticDomain(seed=1, num_documents=60),
            "a": SyntheticDomain(seed=1, num_documents=80),
            "0-probe-only": SyntheticDomain(seed=2, num_documents=40, train=False),
        },
        tokenizer=Tokenizer(vocab_size=400),
    )


@pytest.fixture(scope="session")
def small(small_spec: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Return that corpus, built once for all tests."""
    return open_corpus(small_spec, tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Iterable[Document]]], None]:
    """Return a function that puts given documents in place of what a domain would read."""

    def planted(texts: dict[str, Iterable[Document]]) -> None:
        def find(name: str, *_: object) -> Source:
            return Source("planted-1", "none", lambda: iter(texts[name]))

        monkeypatch.setattr(opening, "find_source", find)

    return planted


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout, where a subprocess finds the packages."""
    return Path(__file__).parents[3]
