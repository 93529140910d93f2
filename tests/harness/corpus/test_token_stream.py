"""Documents one after another: end of text, prompts and bytes, in the width that is written."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from harness.corpus.documents import Document
from harness.corpus.ready_tokenizer import Ready
from harness.corpus.token_stream import encode_documents, narrow
from harness.corpus.tokenizer import encode, encoded_with_bytes, train_bpe

BPE = train_bpe(["the cat sat on the mat, naïvely: 你好 " * 9], 320)
READY = Ready(BPE, 0, None)


def documents(*texts: str, prompt_chars: int = 0) -> list[Document]:
    """Return documents of these texts."""
    return [Document(f"d{i}", "g", text, None, prompt_chars) for i, text in enumerate(texts)]


def test_a_stream_is_each_documents_tokens_and_an_end_of_text() -> None:
    """Prompts are encoded apart: no token straddles the border."""
    found = encode_documents(
        READY, documents("the cat sat", "the mat, naïvely", prompt_chars=6), False
    )

    expected = [
        [*encode(BPE, [text[:6]])[0].tolist(), *encode(BPE, [text[6:]])[0].tolist(), 0]
        for text in ("the cat sat", "the mat, naïvely")
    ]
    assert found.tokens.tolist() == [token for one in expected for token in one]
    assert found.tokens.dtype == np.uint16
    assert found.sizes.tolist() == [len(one) for one in expected]
    assert found.prompts == [len(encode(BPE, [t[:6]])[0]) for t in ("the ca", "the ma")]
    assert len(found.bytes) == 0


@pytest.mark.parametrize("prompt_chars", [0, 4])
def test_bytes_are_by_position_and_add_up_to_the_text(prompt_chars: int) -> None:
    """End of text included; a prompt's rest is counted at the first token after it."""
    texts = ("the cat 你好", "", "mat")
    found = encode_documents(READY, documents(*texts, prompt_chars=prompt_chars), True)

    assert len(found.bytes) == len(found.tokens)
    pieces = np.split(found.bytes, np.cumsum(found.sizes)[:-1])
    assert [int(piece.sum()) for piece in pieces] == [len(text.encode()) for text in texts]
    if not prompt_chars:
        assert pieces[0].tolist() == next(encoded_with_bytes(BPE, [texts[0]]))[1].tolist()


def test_no_documents_are_an_empty_stream() -> None:
    """A ready split may hold nothing."""
    found = encode_documents(READY, [], True)

    assert found.tokens.tolist() == found.sizes.tolist() == found.bytes.tolist() == []
    assert found.prompts == []


def test_what_is_held_is_two_bytes_a_token_and_a_batch() -> None:
    """Arrays tell tracemalloc of themselves: pieces and the stream, not eight bytes a token."""
    many = documents(*["你好 the cat sat on the mat, naïvely " * 40] * 6000)
    encode_documents(READY, many[:600], False)  # what is loaded once

    tracemalloc.start()
    found = encode_documents(READY, many, False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(found.tokens) > 2_000_000
    assert peak < 6 * len(found.tokens)


def test_many_bytes_between_two_tokens_are_wider() -> None:
    """65,535 is the widest that two bytes hold."""
    assert narrow(np.array([0, 65_535], np.uint32)).dtype == np.uint16
    assert narrow(np.array([0, 65_536], np.uint32)).dtype == np.uint32
    assert narrow(np.zeros(0, np.uint32)).dtype == np.uint16
