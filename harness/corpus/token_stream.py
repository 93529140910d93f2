"""Documents to one stream of tokens, in the width that a corpus is written in.

Two bytes a token, or four: a third of what is read, beside the text that is in memory already. The
tokens of one batch of documents are wider for a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.corpus.documents import Document
from harness.corpus.ready_tokenizer import Ready
from harness.corpus.tokenizer import encoded, encoded_with_bytes, num_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDEST_UINT16 = 65_535


class TokenStream(NamedTuple):
    """The documents of a split, one after another, each with its end of text."""

    tokens: NDArray[Any]  # of the stream's own type
    sizes: NDArray[np.int64]  # by document
    prompts: list[int]  # by document: how many of its tokens are its prompt
    bytes: NDArray[Any]  # by token, where asked for


def encode_documents(ready: Ready, documents: list[Document], with_bytes: bool) -> TokenStream:
    """Encode, holding tokens in the width that they are written in; bytes if asked for.

    A prompt is encoded apart, so that no token straddles the border to what is predicted. Bytes
    are by position, end of text included: what tokens of a prompt do not account for is counted
    at the first one after it.
    """
    parts = (
        [d.text[: d.prompt_chars] for d in documents],
        [d.text[d.prompt_chars :] for d in documents],
    )
    dtype = np.uint32 if num_tokens(ready.tokenizer) > WIDEST_UINT16 else np.uint16
    end = np.array([ready.end_of_text], dtype)
    spans: list[NDArray[Any]] = []
    if with_bytes:
        prompts, rests = [], []
        for (prompt, before), (rest, after) in zip(
            *(encoded_with_bytes(ready.tokenizer, part) for part in parts), strict=True
        ):
            after[0] += before[-1]
            spans += [before[:-1].astype(np.uint32), after.astype(np.uint32)]
            prompts.append(prompt.astype(dtype))
            rests.append(rest.astype(dtype))
    else:
        prompts, rests = (
            [tokens.astype(dtype) for tokens in encoded(ready.tokenizer, part)] for part in parts
        )
    pieces = [piece for pair in zip(prompts, rests, strict=True) for piece in (*pair, end)]
    return TokenStream(
        np.concatenate([np.zeros(0, dtype), *pieces]),
        np.array([len(a) + len(b) + 1 for a, b in zip(prompts, rests, strict=True)], np.int64),
        [len(prompt) for prompt in prompts],
        np.concatenate([np.zeros(0, np.uint32), *spans]),
    )


def narrow(counts: NDArray[Any]) -> NDArray[Any]:
    """Return bytes by token in the width that they are written in."""
    # more than 65,535 bytes between two tokens: a tokenizer that drops white space met a lot of it
    return counts.astype(np.uint32 if counts.max(initial=0) > WIDEST_UINT16 else np.uint16)
