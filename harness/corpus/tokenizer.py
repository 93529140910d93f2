"""A byte-level BPE, trained on the train documents of the domains that are trained on.

Bytes, so that no text is unknown and bits per byte is exact: each token stands for a fixed number
of bytes. Tokens of text and the end-of-text token never mix: a document that spells the latter out
is encoded as the characters it is; so is every special token of a tokenizer from outside, but not
words that were added to one without being special. Trained on nothing else than what a model may
learn from, because a merge learned from held-out text would tell what is in it; the price is that
an untrained domain may cost more tokens per byte. The only file that imports tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.corpus.fast_encoding import fast_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
BATCH, BATCH_CHARACTERS = 512, 2**22  # documents, and text, per call: bounds what is held


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same bytes of tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    return tokenizer


def from_text(text: str) -> Tokenizer:
    """Return the tokenizer that a tokenizer.json describes."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def from_merges(vocab: Path, merges: Path) -> Tokenizer:
    """Return the byte-level BPE of GPT-2's two files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the tokens of each text, without the end-of-text token."""
    return list(encoded(tokenizer, texts))


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Yield the same, holding the tokens of one batch of texts."""
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a text is text

    def by_library(batch: Sequence[str]) -> list[NDArray[np.int64]]:
        found = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in found]

    some = fast_encoder(tokenizer, texts, by_library) or by_library
    for batch in _batches(texts):
        yield from some(batch)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, at most BATCH and about BATCH_CHARACTERS of them at once."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == BATCH or size + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def encoded_with_bytes(
    tokenizer: Tokenizer, texts: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the tokens of each text as `encoded` does, and the UTF-8 bytes each accounts for.

    A token accounts for the text from the end of the token before it to its own end, so what a
    tokenizer drops or rewrites is counted too; the last entry, one more than there are tokens, is
    the rest, for the end-of-text token. The entries of a text add up to its bytes.
    """
    tokenizer.encode_special_tokens = True
    for some in _batches(texts):
        for text, encoding in zip(
            some, tokenizer.encode_batch(some, add_special_tokens=False), strict=True
        ):
            ends = np.array([end for _, end in encoding.offsets], np.int64)  # in characters
            yield np.array(encoding.ids, np.int64), _bytes_between(text, ends)


def _bytes_between(text: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the UTF-8 bytes up to each end, from the one before, and those after the last."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    up_to = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    reached = np.maximum.accumulate(np.concatenate([[0], np.clip(ends, 0, len(text))]))
    counts: NDArray[np.int64] = np.diff(up_to[np.concatenate([reached, [len(text)]])])
    return counts


def bytes_per_token(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return how many bytes of UTF-8 each token stands for  # [vocab]; end of text: none."""
    sizes = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for token, number in tokenizer.get_vocab().items():
        sizes[number] = len(token)  # the byte-level alphabet spells each byte as one character
    sizes[END_OF_TEXT_ID] = 0
    return sizes


def num_tokens(tokenizer: Tokenizer) -> int:
    """Return how many ids there are, holes in the numbering included."""
    return max(tokenizer.get_vocab().values()) + 1
