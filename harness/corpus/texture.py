"""Whether a domain's text has anything to learn in it, and whether two domains differ at all.

Rebalancing moves weight between domains; it can do nothing for text that is random, nor between
domains that are alike. Every measure here is model-free and is held against the same text with its
order or its labels shuffled, so that what counts as nothing comes from the data and not from a
guess. Units are words (case folded; letters alone in scripts without spaces), tokens, and
characters: noise of one kind has order of another, as random words are spelled regularly. The price
is a bounded sample, the beginning of each train stream, and neighbors only: text whose order begins
beyond adjacent units looks random here unless it also compresses.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import PCG64, Generator

from harness.corpus.documents import Placed, TextsOf, hash_key, in_hash_order
from harness.corpus.store import starts_file, tokens_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

# Thai, Lao, Burmese, Khmer, kana and Han are written without spaces: each letter is a unit
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
SAMPLE = 32_000  # units: a tenth of a second, and far more than the measures need
MIN_PAIRS = 900  # adjacent units; with fewer, shuffles of real text come close to the text
MAX_DISTINCT = 0.5  # share of units that occur for the first time: above it few pairs can recur
SHUFFLES = 8  # their mean is stable to a thousandth of a bit
EXCERPT = 256  # tokens of a block, which a permutation moves as one
BLOCKS = 64  # at most, of a domain: 16,000 tokens
MIN_BLOCKS = 8  # 12,870 ways to deal 16 blocks; with far fewer a reference means little
BUCKETS = 4096  # of hashed tokens and token pairs
PERMUTATIONS = 40

Facts = dict[str, Any]


def text_facts(kept: Sequence[Placed], domains: Sequence[str], folder: Path) -> Facts:
    """Return what the manifest says of every domain's train text, and of every pair of domains.

    `folder` holds the token streams already; `kept` the documents that they were made of.
    """
    texts = {
        name: in_hash_order([p.document for p in kept if p.domain == name and p.split == "train"])
        for name in domains
    }
    measured = {
        name: domain_facts(TextsOf(texts[name]), _read_documents(name, folder), name)
        for name in domains
    }
    blocks = {name: equal_blocks(_read_documents(name, folder)) for name in domains}
    return {"domains": measured, "pairs": pair_facts(blocks)}


def _read_documents(name: str, folder: Path) -> Iterator[Ints]:
    """Yield the tokens of each train document, memory-mapped, without its end of text."""
    stream = np.load(folder / tokens_file(name, "train"), mmap_mode="r", allow_pickle=False)
    starts = np.load(folder / starts_file(name, "train"), allow_pickle=False)
    ends = np.append(starts, len(stream))[1:] - 1  # none: ready splits may train on nothing
    return (stream[start:end] for start, end in zip(starts, ends, strict=True))


def domain_facts(texts: Sequence[str], encoded: Iterable[Ints], name: str) -> Facts:
    """Return the order of words, tokens and characters, and how evenly tokens are used."""
    tokens, documents = _joined(encoded)
    return {
        "words": order_facts(*_units(texts, _words), name),
        "tokens": order_facts(tokens, documents, name),
        "characters": order_facts(*_units(texts, _characters), name),
        "evenness": evenness(tokens, name),
    }


def _joined(encoded: Iterable[Ints]) -> tuple[Ints, Ints]:
    """Return the first SAMPLE tokens and the number of the document of each."""
    kept, missing = [np.empty(0, np.int64)], SAMPLE
    for document in encoded:
        kept.append(np.asarray(document[:missing], np.int64))
        missing -= len(kept[-1])
        if not missing:
            break
    numbers = np.repeat(np.arange(len(kept)), [len(document) for document in kept])
    return np.concatenate(kept), numbers


def order_facts(units: Ints | NDArray[np.str_], documents: Ints, name: str) -> Facts | None:
    """Return how much the order of `units` [N] tells; None where the sample cannot show it.

    order: share of a unit's entropy, as shuffles leave it, that the unit before takes away (0 for
    independent draws). compression: size by zlib in order, relative to shuffled (1 for the same).
    Units are shuffled within their documents, so that a document's subject is not taken for order.
    """
    distinct, codes = np.unique(units, return_inverse=True)
    pairs = int((documents[1:] == documents[:-1]).sum())
    if pairs < MIN_PAIRS or len(distinct) > MAX_DISTINCT * len(units):
        return None
    random = _random("order", name)
    orders = [np.lexsort((random.random(len(codes)), documents)) for _ in range(SHUFFLES)]
    single = _entropy(np.bincount(codes))
    left = float(np.mean([_pair_entropy(codes[o], documents) for o in orders])) - single
    if left < 0.01:  # bits: one unit over and over
        return None
    found = _pair_entropy(codes, documents) - single
    spelled = distinct.astype(str).astype(object)[codes]
    return {
        "units": len(codes),
        "distinct": len(distinct),
        "entropy": round(single, 4),
        "order": round(1 - found / left, 4),
        "compression": round(_size(spelled) / _size(spelled[orders[0]]), 4),
    }


def evenness(tokens: Ints, name: str) -> Facts | None:
    """Return distinct tokens and their entropy, relative to uniform draws from the same tokens.

    1 means that tokens occur as if drawn with equal chances from all ids up to the highest; text
    uses a few often and most seldom.
    """
    if len(tokens) < MIN_PAIRS:
        return None
    counts = np.bincount(tokens)
    drawn = np.bincount((_random("even", name).random(len(tokens)) * len(counts)).astype(np.int64))
    return {
        "units": len(tokens),
        "distinct": round(float((counts > 0).sum() / (drawn > 0).sum()), 4),
        "entropy": round(_entropy(counts) / max(_entropy(drawn), 1e-9), 4),
    }


def pair_facts(blocks: Mapping[str, tuple[Ints, Ints]]) -> list[Facts]:
    """Return, for each pair of domains, how far they differ and how far random halves would.

    `blocks` are those of `equal_blocks`. Jensen-Shannon divergence in bits of tokens and of token
    pairs; `reference` and `spread` are the mean and the standard deviation over random deals of the
    pooled blocks. Domains with too few documents are left out.
    """
    counts = {name: _counts(*found) for name, found in blocks.items()}
    facts = []
    for a, b in combinations(counts, 2):
        size = min(len(blocks[a][0]), len(blocks[b][0]))
        if size >= MIN_BLOCKS:
            ours = zip(counts[a], counts[b], strict=True)
            tokens, pairs = (_divergence(x[:size], y[:size], f"{a}/{b}") for x, y in ours)
            facts.append(
                {"domains": [a, b], "blocks": size, "tokens": tokens, "token_pairs": pairs}
            )
    return facts


def equal_blocks(documents: Iterable[Ints]) -> tuple[Ints, Ints]:
    """Return up to BLOCKS blocks of EXCERPT tokens, and the documents' numbers, both [n, EXCERPT].

    A document is in one block, with at most EXCERPT tokens from its middle: blocks of one size
    that share no document can change places if domains are alike, and one long file weighs no more
    than another. What does not fill a block is left out.
    """
    tokens: list[Ints] = []
    numbers: list[Ints] = []
    open_tokens, open_numbers, size = [], [], 0
    for number, document in enumerate(documents):
        start = max((len(document) - EXCERPT) // 2, 0)
        excerpt = np.asarray(document[start : start + EXCERPT - size], np.int64)
        open_tokens.append(excerpt)
        open_numbers.append(np.full(len(excerpt), number))
        size += len(excerpt)
        if size == EXCERPT:
            tokens.append(np.concatenate(open_tokens))
            numbers.append(np.concatenate(open_numbers))
            open_tokens, open_numbers, size = [], [], 0
        if len(tokens) == BLOCKS:
            break
    shape = (len(tokens), EXCERPT)
    return np.array(tokens, np.int64).reshape(shape), np.array(numbers, np.int64).reshape(shape)


def _divergence(a: Ints, b: Ints, key: str) -> Facts:
    """Return the divergence of two domains' blocks [n, BUCKETS], and that of random deals."""
    pooled = np.concatenate([a, b]).astype(np.float64)
    random = _random("deal", key)
    is_first = np.arange(len(pooled)) < len(a)
    deals = [is_first, *(random.permuted(is_first) for _ in range(PERMUTATIONS))]
    first = np.array(deals, np.float64) @ pooled  # [1 + PERMUTATIONS, BUCKETS]
    values = _jensen_shannon(first, pooled.sum(0) - first)
    return {
        "divergence": round(float(values[0]), 5),
        "reference": round(float(values[1:].mean()), 5),
        "spread": round(float(values[1:].std()), 5),
    }


def _jensen_shannon(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the divergence in bits of counts, row by row."""
    p = first / first.sum(1, keepdims=True)
    q = second / second.sum(1, keepdims=True)
    values: NDArray[np.float64] = _bits((p + q) / 2) - (_bits(p) + _bits(q)) / 2
    return values


def _bits(shares: NDArray[Any]) -> NDArray[np.float64]:
    entropy: NDArray[np.float64] = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(-1)
    return entropy


def _counts(tokens: Ints, documents: Ints) -> tuple[Ints, Ints]:
    """Return each block's counts of hashed tokens and token pairs, [blocks, BUCKETS]."""
    pairs = tokens[:, :-1] * 1_000_003 + tokens[:, 1:]
    inside = documents[:, :-1] == documents[:, 1:]
    return _count(tokens, np.ones_like(tokens, bool)), _count(pairs, inside)


def _count(values: Ints, is_counted: NDArray[np.bool_]) -> Ints:
    bucket = (values * 0x9E3779B1 >> 12) % BUCKETS  # 2^32 / golden ratio spreads neighbors
    cells = np.arange(len(values))[:, None] * BUCKETS + bucket
    counts = np.bincount(cells[is_counted], minlength=len(values) * BUCKETS)
    return counts.reshape(len(values), BUCKETS)


def _units(texts: Sequence[str], units_of: Any) -> tuple[NDArray[np.str_], Ints]:
    """Return up to SAMPLE units from the first texts, and the number of the text of each."""
    units: list[str] = []
    sizes: list[int] = []
    for text in texts:
        # a unit has at least one character, and 64 for each are beyond any prose
        found = units_of(text[: SAMPLE * 64])[: SAMPLE - len(units)]
        units += found
        sizes.append(len(found))
        if len(units) == SAMPLE:
            break
    return np.array([u[:64] for u in units], np.str_), np.repeat(np.arange(len(sizes)), sizes)


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


def _pair_entropy(codes: Ints, documents: Ints) -> float:
    """Return the entropy in bits of adjacent units of one document."""
    pairs = codes[:-1] * (int(codes.max()) + 1) + codes[1:]
    return _entropy(np.unique(pairs[documents[1:] == documents[:-1]], return_counts=True)[1])


def _entropy(counts: Ints) -> float:
    return float(_bits(counts / counts.sum()))


def _size(units: NDArray[Any]) -> int:
    separator = "" if all(len(unit) == 1 for unit in units[:100]) else " "
    return len(zlib.compress(separator.join(units).encode("utf-8", "replace"), 9))


def _random(*parts: str) -> Generator:
    """Return a generator of its own: one that made the text could sort it back into order."""
    return Generator(PCG64(int.from_bytes(hash_key("texture", *parts), "little")))
