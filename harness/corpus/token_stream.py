"""Documents to tokens, one after another, in the width that a corpus is written in.

What is held is one batch of documents and their tokens, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.corpus.documents import Document, TextsOf
from harness.corpus.ready_tokenizer import Ready
from harness.corpus.tokenizer import encoded, encoded_with_bytes, num_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDEST_UINT16 = 65_535


class Encoded(NamedTuple):
    """A document's tokens, and its end of text."""

    tokens: NDArray[Any]  # of the stream's own type
    prompt: int  # how many of them are its prompt
    bytes: NDArray[np.uint32]  # by token, where asked for


def token_type(ready: Ready) -> type[np.uint16 | np.uint32]:
    """Return what tokens are written as: two bytes, or four."""
    return np.uint32 if num_tokens(ready.tokenizer) > WIDEST_UINT16 else np.uint16


def encode_documents(
    ready: Ready, documents: Sequence[Document], with_bytes: bool
) -> Iterator[Encoded]:
    """Yield each document's tokens, in the width that they are written in; bytes if asked for.

    A prompt is encoded apart, so that no token straddles the border to what is predicted. Bytes
    are by position, end of text included: what tokens of a prompt do not account for is counted
    at the first one after it.
    """
    parts = TextsOf(documents, _prompt), TextsOf(documents, _rest)
    dtype, nothing = token_type(ready), np.zeros(0, np.uint32)
    end = np.array([ready.end_of_text], dtype)
    if with_bytes:
        both = (encoded_with_bytes(ready.tokenizer, part) for part in parts)
        for (prompt, before), (rest, after) in zip(*both, strict=True):
            after[0] += before[-1]
            counts = np.concatenate([before[:-1], after]).astype(np.uint32)
            tokens = np.concatenate([prompt.astype(dtype), rest.astype(dtype), end])
            yield Encoded(tokens, len(prompt), counts)
        return
    plain = (encoded(ready.tokenizer, part) for part in parts)
    for prompt, rest in zip(*plain, strict=True):
        tokens = np.concatenate([prompt.astype(dtype), rest.astype(dtype), end])
        yield Encoded(tokens, len(prompt), nothing)


def _prompt(document: Document) -> str:
    return document.text[: document.prompt_chars] if document.prompt_chars else ""


def _rest(document: Document) -> str:
    return document.text[document.prompt_chars :]


def narrow(counts: NDArray[Any]) -> NDArray[Any]:
    """Return bytes by token in the width that they need."""
    # more than 65,535 bytes between two tokens: a tokenizer that drops white space met a lot of it
    return counts.astype(np.uint32 if counts.max(initial=0) > WIDEST_UINT16 else np.uint16)
