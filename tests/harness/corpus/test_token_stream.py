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
    texts = ("the cat sat", "the mat, naïvely")
    found = list(encode_documents(READY, documents(*texts, prompt_chars=6), False))

    assert [one.tokens.tolist() for one in found] == [
        [*encode(BPE, [text[:6]])[0].tolist(), *encode(BPE, [text[6:]])[0].tolist(), 0]
        for text in texts
    ]
    assert {one.tokens.dtype for one in found} == {np.dtype(np.uint16)}
    assert [one.prompt for one in found] == [len(encode(BPE, [t[:6]])[0]) for t in texts]
    assert all(len(one.bytes) == 0 for one in found)


@pytest.mark.parametrize("prompt_chars", [0, 4])
def test_bytes_are_by_position_and_add_up_to_the_text(prompt_chars: int) -> None:
    """End of text included; a prompt's rest is counted at the first token after it."""
    texts = ("the cat 你好", "", "mat")
    found = list(encode_documents(READY, documents(*texts, prompt_chars=prompt_chars), True))

    assert [len(one.bytes) for one in found] == [len(one.tokens) for one in found]
    assert [int(one.bytes.sum()) for one in found] == [len(text.encode()) for text in texts]
    if not prompt_chars:
        wanted = next(encoded_with_bytes(BPE, [texts[0]]))[1].tolist()
        assert found[0].bytes.tolist() == wanted


def test_no_documents_are_an_empty_stream() -> None:
    """A ready split may hold nothing."""
    assert list(encode_documents(READY, [], True)) == []


def test_what_is_held_is_a_batch_of_documents() -> None:
    """Arrays tell tracemalloc of themselves: five times the documents take no more."""
    many = documents(*["你好 the cat sat on the mat, naïvely " * 40] * 6000)

    def peak(count: int) -> tuple[int, int]:
        tracemalloc.start()
        tokens = sum(len(one.tokens) for one in encode_documents(READY, many[:count], False))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return tokens, held

    peak(600)  # what is loaded once
    (_, few), (tokens, held) = peak(1200), peak(6000)

    assert tokens > 2_000_000
    assert held < 1.3 * few + 100_000


def test_many_bytes_between_two_tokens_are_wider() -> None:
    """65,535 is the widest that two bytes hold."""
    assert narrow(np.array([0, 65_535], np.uint32)).dtype == np.uint16
    assert narrow(np.array([0, 65_536], np.uint32)).dtype == np.uint32
    assert narrow(np.zeros(0, np.uint32)).dtype == np.uint16
