"""A byte-level BPE, trained on the train documents of the domains that are trained on.

Bytes, so that no text is unknown and bits per byte is exact: each token stands for a fixed number
of bytes. Tokens of text and the end-of-text token never mix: a document that spells the latter out
is encoded as the characters it is. Trained on nothing else than what a model may learn from,
because a merge learned from held-out text would tell what is in it; the price is that an untrained
domain may cost more tokens per byte. The only file that imports tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
BATCH = 512  # documents per call: bounds what is held as Python objects


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


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the tokens of each text, without the end-of-text token."""
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a text is text
    tokens = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
        tokens += [np.array(encoding.ids, np.int64) for encoding in batch]
    return tokens


def bytes_per_token(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return how many bytes of UTF-8 each token stands for  # [vocab]; end of text: none."""
    sizes = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for token, number in tokenizer.get_vocab().items():
        sizes[number] = len(token)  # the byte-level alphabet spells each byte as one character
    sizes[END_OF_TEXT_ID] = 0
    return sizes
