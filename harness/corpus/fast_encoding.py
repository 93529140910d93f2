"""Encoding many texts by fastokens, after it has agreed with the tokenizers library on some.

The tokenizers library tells where each token lies in its text, and pays for that whether it is
asked or not: 3 MB/s a core for a byte-level BPE, where fastokens reads the same tokenizer.json and
is ten times as fast. What a corpus holds is still defined by the tokenizers library, so a sample of
the very texts is encoded by both first, the longest among them. One difference, or a part of
tokenizer.json that fastokens does not know: the tokenizers library does it all. Where a limit of
its regular expressions is met later, it does that batch. The only file that imports fastokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

Encode = Callable[[Sequence[str]], list["NDArray[np.int64]"]]

MANY = 256  # texts; for fewer, comparing costs more than is gained
SAMPLE, CHARACTERS = 64, 4096  # so many texts, evenly spread, of at most so many characters each
LONGEST, MOST_CHARACTERS = 4, 50_000  # and these


def fast_encoder(tokenizer: Tokenizer, texts: Sequence[str], reference: Encode) -> Encode | None:
    """Return what encodes as `reference`, the tokenizers library, does on a sample of the texts.

    None if there is no such thing, or if there are too few texts to be worth it.
    """
    if sum(1 for _ in islice(filter(None, texts), MANY)) < MANY:
        return None
    fast = _read(tokenizer.to_str())
    if fast is None:
        return None

    def encode(some: Sequence[str]) -> list[NDArray[np.int64]]:
        try:
            # as text, like `encode_special_tokens`: a document may spell a special token out
            flat, offsets = fast.encode_batch_flat(list(some), split_special_tokens=True)
        except Exception:
            return reference(some)
        tokens = np.frombuffer(flat, np.uint32).astype(np.int64)
        borders = np.frombuffer(offsets, np.uint64).tolist()
        return [tokens[start:end] for start, end in pairwise(borders)]

    sample = _sample(texts)
    pairs = zip(encode(sample), reference(sample), strict=True)
    return encode if all(np.array_equal(ours, theirs) for ours, theirs in pairs) else None


@lru_cache(maxsize=1)  # every domain and split of a corpus asks for the same one
def _read(description: str) -> Any:
    """Return fastokens' tokenizer of a tokenizer.json; None for what it does not know."""
    from fastokens import Tokenizer as Fast

    try:
        return Fast.from_json_str(description)
    except ValueError:
        return None


def _sample(texts: Sequence[str]) -> list[str]:
    spread = [texts[i][:CHARACTERS] for i in range(0, len(texts), len(texts) // SAMPLE)]
    longest = heapq.nlargest(LONGEST, texts, key=len)
    return spread + [text[:MOST_CHARACTERS] for text in longest]
