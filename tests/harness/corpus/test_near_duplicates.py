"""Near-duplicates over splits and domains: found, and the copy in the strictest split stays."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus import near_duplicates, open_corpus
from harness.corpus.documents import SPLITS, STRICTEST_FIRST, Document, Placed
from harness.corpus.near_duplicates import shingles, survivors
from harness.corpus.spool import Spool
from harness.errors import SpecError
from harness.spec import Corpus, Splits, SyntheticDomain, Tokenizer

Plant = Callable[[dict[str, Iterable[Document]]], None]


def clusters(texts: list[str], threshold: float) -> list[int]:
    """Return what a corpus makes of the texts; nothing stays on the disk."""
    with Spool() as spool:
        found = near_duplicates.clusters(texts, threshold, spool)
        assert spool.size == 0
    return found


def prose(seed: int, num_words: int = 100) -> list[str]:
    """Make words that no two seeds share in order."""
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(num_words)]


def edited(words: list[str], every: int) -> str:
    """Change one word in `every`."""
    return " ".join("other" if i % every == every - 1 else word for i, word in enumerate(words))


def grams(text: str) -> set[tuple[str, ...]]:
    """List word 5-grams without hashing: an independent oracle."""
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_shingles_measure_the_similarity_of_word_5_grams() -> None:
    """Hashed sets have the Jaccard similarity of the sets of grams themselves."""
    one, two = " ".join(prose(1)), edited(prose(1), 30)
    a, b = shingles([one, two])

    hashed = len(np.intersect1d(a, b)) / len(np.union1d(a, b))

    expected = len(grams(one) & grams(two)) / len(grams(one) | grams(two))
    assert 0.5 < expected < 1
    assert hashed == pytest.approx(expected)


def test_case_punctuation_and_spacing_are_ignored() -> None:
    """A reformatted copy is a copy."""
    words = prose(2)

    assert clusters([" ".join(words), ",\n".join(words).upper() + "!"], 0.8) == [0, 0]


@pytest.mark.parametrize(("every", "same"), [(70, True), (10, False)])
def test_light_edits_are_found_and_rewriting_is_not(every: int, same: bool) -> None:
    """Similarity decides, on both sides of the threshold."""
    found = clusters([" ".join(prose(3)), edited(prose(3), every)], 0.8)

    assert (found == [0, 0]) is same


def test_recall_at_the_threshold_is_what_is_promised() -> None:
    """Of 300 pairs just above 0.8, at most 1 in 100 is missed."""
    texts = []
    for seed in range(300):
        words = prose(seed, 200)
        texts += [" ".join(words), " ".join([*words[:-21], *prose(seed + 10_000, 21)])]
    assert len(grams(texts[0]) & grams(texts[1])) / len(grams(texts[0]) | grams(texts[1])) > 0.8

    roots = clusters(texts, 0.8)

    assert sum(roots[i] == roots[i + 1] for i in range(0, 600, 2)) >= 297


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.99])
def test_any_threshold_works(threshold: float) -> None:
    """The index finds identical word sequences whatever the threshold."""
    assert clusters([" ".join(prose(4)), " ".join(prose(4)) + "."], threshold) == [0, 0]


def test_texts_without_words_are_never_near_duplicates() -> None:
    """Two lines of punctuation differ unless they are equal."""
    assert clusters(["...", "!!!", "", "one two"], 0.8) == [0, 1, 2, 3]


ENTRIES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(SPLITS), st.integers(0, 5), st.booleans()),
    max_size=25,
)


@given(ENTRIES)
@settings(max_examples=50, deadline=None)
def test_one_copy_stays_and_it_is_in_the_strictest_split(
    entries: list[tuple[str, str, int, bool]],
) -> None:
    """Whatever is planted where: one document of a kind is left, in the strictest split it had."""
    placed = [
        Placed(domain, split, Document(str(i), "g", " ".join(prose(seed)) + "!" * shout))
        for i, (domain, split, seed, shout) in enumerate(entries)
    ]

    with Spool() as spool:
        verdicts = survivors(placed, 0.8, spool)

    for seed in range(6):
        mine = [i for i, entry in enumerate(entries) if entry[2] == seed]
        left = [i for i in mine if verdicts[i] is None]
        assert len(left) == min(len(mine), 1)
        if left:
            splits = {entries[i][1] for i in mine}
            assert entries[left[0]][1] == min(splits, key=STRICTEST_FIRST.index)


def planted_domain(first: int, count: int = 100) -> list[Document]:
    """Make a domain of different documents."""
    return [Document(f"{i}", f"{i}", " ".join(prose(i))) for i in range(first, first + count)]


TWO = Corpus(
    domains={"a": SyntheticDomain(), "b": SyntheticDomain()}, tokenizer=Tokenizer(vocab_size=300)
)


def test_copies_across_domains_are_removed_and_counted(plant: Plant, tmp_path: Path) -> None:
    """Five exact and five edited copies of one domain's documents in the other: ten removals."""
    a, b = planted_domain(0), planted_domain(1000)
    b += [Document(f"copy {i}", f"copy {i}", " ".join(prose(i))) for i in range(5)]
    b += [Document(f"edit {i}", f"edit {i}", edited(prose(i), 60)) for i in range(5, 10)]
    plant({"a": a, "b": b})

    manifest = open_corpus(TWO, tmp_path).manifest

    removed = [
        split for facts in manifest["domains"].values() for split in facts["removed"].values()
    ]
    assert sum(split["exact"] for split in removed) == 5
    assert sum(split["near"] for split in removed) == 5
    assert sum(split["exact"] + split["near"] for split in removed) == 210 - sum(
        split["documents"]
        for facts in manifest["domains"].values()
        for split in facts["splits"].values()
    )


def test_a_domain_that_repeats_itself_is_refused(plant: Plant, tmp_path: Path) -> None:
    """Losing more than a fifth is a mistake in the data, not something to do silently."""
    b = planted_domain(1000)
    b += [Document(f"again {i}", f"again {i}", d.text) for i, d in enumerate(b[:30])]
    plant({"a": planted_domain(0), "b": b})

    with pytest.raises(SpecError, match=r"domains\.b: 30 of 130 documents .*30 exactly, 0 nearly"):
        open_corpus(TWO, tmp_path)
    lenient = Corpus(domains=TWO.domains, tokenizer=TWO.tokenizer, splits=Splits(max_removed=0.5))
    assert open_corpus(lenient, tmp_path).manifest["domains"]["b"]["documents_kept"] == 130


def test_a_pair_that_is_not_alike_enough_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares many bands; to compare sets is what takes the time."""
    common = prose(1, 300)
    texts = [" ".join([*common, *prose(seed, 80)]) for seed in range(2, 14)]
    compared: list[frozenset[int]] = []

    def refuse(sets: Any, i: int, j: int, threshold: float) -> bool:
        compared.append(frozenset([i, j]))
        return False

    monkeypatch.setattr(near_duplicates._Sets, "similar", refuse)

    assert clusters(texts, 0.8) == list(range(12))
    assert len(compared) > 20
    assert len(set(compared)) == len(compared)
