"""Invented sentences from a seeded Markov chain: a language whose entropy is known.

Each word has `branching` equally likely successors, so no model can do better than log(branching)
nats per word, and with as many successors as words the text is noise. Words and chain depend on the
seed alone, documents also on the domain's name and their number: domains with one seed speak one
language and share no document. Draws use raw uniforms only, which numpy keeps stable for ever.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import PCG64, Generator

from harness.corpus.documents import Document, hash_key
from harness.spec import SyntheticDomain

VERSION = "synthetic-1"  # raise it with any change of the text below
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SENTENCE_END = 0.1  # probability after each word


def read(name: str, domain: SyntheticDomain) -> Iterator[Document]:
    """Yield the documents of a synthetic domain, each a group of its own."""
    words = _invent_words(domain)
    successors = _chain(domain)  # [num_words, branching]
    for number in range(domain.num_documents):
        uniforms = _uniforms(domain.seed, "document", name, str(number))
        picks, stops = uniforms.random((2, domain.words_per_document))
        word = int(picks[0] * len(words))
        sentence_starts, text = True, []
        for pick, stop in zip(picks, stops, strict=True):
            spelled = words[word].capitalize() if sentence_starts else words[word]
            sentence_starts = bool(stop < SENTENCE_END)
            text.append(spelled + "." if sentence_starts else spelled)
            word = int(successors[word, int(pick * successors.shape[1])])
        yield Document(f"{number:06d}", f"{number:06d}", " ".join(text))


def _uniforms(seed: int, *parts: str) -> Generator:
    key = hash_key(str(seed), *parts)
    return Generator(PCG64(int.from_bytes(key, "little")))


def _invent_words(domain: SyntheticDomain) -> list[str]:
    uniforms = _uniforms(domain.seed, "words")
    words: dict[str, None] = {}  # a set that keeps its order
    while len(words) < domain.num_words:
        num_syllables = 1 + int(uniforms.random() * 3)
        letters = uniforms.random((num_syllables, 2))
        words["".join(_syllable(c, v) for c, v in letters)] = None
    return list(words)


def _syllable(consonant: float, vowel: float) -> str:
    return CONSONANTS[int(consonant * len(CONSONANTS))] + VOWELS[int(vowel * len(VOWELS))]


def _chain(domain: SyntheticDomain) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the successors of each word: the next on a random cycle, and others at random."""
    count = domain.num_words
    uniforms = _uniforms(domain.seed, "chain")
    cycle = np.argsort(uniforms.random(count))
    if domain.branching >= count:
        return np.tile(np.arange(count), (count, 1))
    successors = np.empty((count, domain.branching), np.int64)
    for place, word in enumerate(cycle):
        others = 1 + np.argsort(uniforms.random(count - 1))  # steps along the cycle, 1 to count - 1
        steps = np.concatenate([[1], others[others != 1]])[: domain.branching]
        successors[word] = cycle[(place + steps) % count]
    return successors
