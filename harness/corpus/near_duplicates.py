"""Which documents say the same, over all splits and all domains, and which copy survives.

Documents are compared whole, by the Jaccard similarity of their sets of word 5-grams (case folded,
punctuation and space ignored). MinHash LSH proposes pairs, the exact similarity decides, and pairs
chain into clusters. Of a cluster one document stays: the one in the strictest split, since a copy
in training data would make a held-out number a memory test.

Caught: copies, and edits of up to about a tenth of the words, whatever the splits and domains. LSH
misses fewer than 1 pair in 100 at the threshold, and next to none above it. Not caught: a short
document quoted inside a long one, paraphrase, and passages shared by documents that differ
otherwise. Sources answer that by their choice of unit: a license paragraph and a Bible chapter are
documents, so a copied one is found; a source file is one document, so a copied function is not.
Text without spaces between words is compared by its runs of letters, which finds copies only.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import combinations, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.corpus.documents import STRICTEST_FIRST, Placed, TextsOf
from harness.corpus.spool import Spool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint32]

WORD = re.compile(r"\w+")
GRAM_WORDS = 5
NUM_PERM = 128
RECALL = 0.99  # at the threshold; a missed pair is a leak, a false candidate one exact comparison
MOST_WORDS = 1 << 20  # whose hashes are remembered: about 150 MB
CHUNK = 1 << 14  # shingles per MinHash update: 128 x 16,384 x 4 bytes = 8 MB at a time
MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: odd, with well spread bits


class Removal(NamedTuple):
    """Why a document goes."""

    kind: str
    """`exact` or `near`."""
    twin: int
    """Index of the document that stays in its place."""


def survivors(placed: Sequence[Placed], threshold: float, spool: Spool) -> list[Removal | None]:
    """Return None for each document that stays, else why it goes.

    The order of `placed` decides between equals of one split: the first stays. What documents are
    compared by goes to the end of the spool for as long as it takes.
    """
    verdicts: list[Removal | None] = [None] * len(placed)
    texts: dict[str, int] = {}
    by_strictness = sorted(
        range(len(placed)), key=lambda i: (STRICTEST_FIRST.index(placed[i].split), i)
    )
    for i in by_strictness:
        first = texts.setdefault(placed[i].document.sha256, i)
        if first != i:
            verdicts[i] = Removal("exact", first)
    distinct = list(texts.values())
    roots = clusters(TextsOf([placed[i].document for i in distinct]), threshold, spool)
    for i, root in zip(distinct, roots, strict=True):
        if distinct[root] != i:
            verdicts[i] = Removal("near", distinct[root])
    return verdicts


def clusters(texts: Sequence[str], threshold: float, spool: Spool) -> list[int]:
    """Return, for each text, the first text of its cluster of near-duplicates.

    Half a kilobyte is held of each: sets of grams are on the disk, and read to be compared.
    """
    begin, sets = spool.size, _Sets(spool)
    signatures, (bands, rows) = _signatures(texts, sets), _bands(threshold)
    parents = list(range(len(texts)))
    for band, members in _buckets(signatures, bands, rows):
        joined: dict[int, list[int]] = {}
        for i in members:
            joined.setdefault(_root(parents, i), []).append(i)
        before = signatures[:, : band * rows]
        for some, others in combinations(joined.values(), 2):
            for i, j in product(some, others):
                low, high = sorted((_root(parents, i), _root(parents, j)))
                if low == high:
                    break
                if not _has_met(before, i, j, rows) and sets.similar(i, j, threshold):
                    parents[high] = low
    spool.rewind(begin)
    return [_root(parents, i) for i in range(len(texts))]


class _Sets:
    """Sets of hashed grams by the number of their text, on the disk."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.starts, self.counts = array("q"), array("q")

    def add(self, hashes: Hashes) -> None:
        self.starts.append(self.spool.add(hashes.tobytes()))
        self.counts.append(len(hashes))

    def similar(self, i: int, j: int, threshold: float) -> bool:
        """Tell whether two sets are, by Jaccard; sets of very different sizes are not read."""
        a, b = self.counts[i], self.counts[j]
        if min(a, b) < threshold * max(a, b):
            return False
        common = len(np.intersect1d(self._read(i), self._read(j), assume_unique=True))
        return common >= threshold * (a + b - common)

    def _read(self, i: int) -> Hashes:
        return np.frombuffer(self.spool.read(self.starts[i], 4 * self.counts[i]), np.uint32)


def _has_met(signatures: Hashes, i: int, j: int, rows: int) -> bool:
    """Tell whether a pair agreed in an earlier band, and so has been compared."""
    return bool((signatures[i] == signatures[j]).reshape(-1, rows).all(1).any())


def _signatures(texts: Sequence[str], sets: _Sets) -> Hashes:
    """Fill `sets`; return the MinHash of each [N, NUM_PERM], of an empty one what no other has."""
    from datasketch import MinHash  # here: it brings scipy, seconds of imports

    blank, words = MinHash(num_perm=NUM_PERM, hashfunc=int), _WordHashes()
    found = np.empty((len(texts), NUM_PERM), np.uint32)
    for i, text in enumerate(texts):
        hashes, sketch = words.grams(text), blank.copy()
        sets.add(hashes)
        for start in range(0, len(hashes), CHUNK):
            sketch.update_batch(hashes[start : start + CHUNK].tolist())
        found[i] = sketch.hashvalues  # they are below 2^32
    return found


def _buckets(signatures: Hashes, bands: int, rows: int) -> Iterator[tuple[int, list[int]]]:
    """Yield a band and the texts, in their order, that agree in all of its rows; two or more.

    Sorting a band at a time takes the signatures, half a kilobyte of a text, where an index of
    dictionaries took sixteen times that.
    """
    whole = np.full(NUM_PERM, np.iinfo(np.uint32).max, np.uint32)  # no word at all
    there = np.flatnonzero((signatures != whole).any(1))
    for band in range(bands):
        part = np.ascontiguousarray(signatures[there, band * rows : (band + 1) * rows])
        keys = part.view(np.dtype((np.void, part.itemsize * rows)))[:, 0]
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.append(keys[order][1:] != keys[order][:-1], True)) + 1
        starts = np.append(0, ends[:-1])
        for start, end in zip(starts, ends, strict=True):
            if end - start > 1:
                yield band, there[order[start:end]].tolist()


def shingles(texts: Sequence[str]) -> list[Hashes]:
    """Return the set of hashed word 5-grams of each text, sorted; shorter texts are one gram."""
    words = _WordHashes()
    return [words.grams(text) for text in texts]


class _WordHashes(dict[str, int]):
    """A hash of each word met so far: the same in every process, computed once."""

    def __missing__(self, word: str) -> int:
        self[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        return self[word]

    def grams(self, text: str) -> Hashes:
        """Return the set of hashed grams of a text, sorted."""
        if len(self) > MOST_WORDS:
            self.clear()
        words = WORD.findall(text.casefold())
        return _grams(np.array(list(map(self.__getitem__, words)), np.uint64))


def _grams(words: NDArray[np.uint64]) -> Hashes:
    count = max(len(words) - GRAM_WORDS + 1, min(len(words), 1))
    mixed = np.zeros(count, np.uint64)
    for offset in range(min(GRAM_WORDS, len(words))):
        mixed = mixed * np.uint64(MULTIPLIER) + words[offset : offset + count]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(MULTIPLIER)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _bands(threshold: float) -> tuple[int, int]:
    """Return (bands, rows of each): the fewest false candidates at a recall of RECALL."""
    for rows in range(NUM_PERM // 2, 1, -1):
        bands = NUM_PERM // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return NUM_PERM, 1


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i
