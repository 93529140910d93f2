"""Fast encoding gives the tokenizers library's own tokens, or is not used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.corpus.fast_encoding import MANY, Encode, fast_encoder
from harness.corpus.tokenizer import END_OF_TEXT, encode, train_bpe

LESSONS = ["the cat sat on the mat, naïvely: 你好 " * 9, "def f(x):\n    return x  # 12345\n" * 9]
# of Llama 3 and Qwen: a regular expression of their own before the bytes
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = st.sampled_from(
    ["the", " cat", "  ", "\n", "'LL", "你好", "é", "e\u0301", "12345", "<|endof"]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join))


def _of_a_recent_model() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=320, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LESSONS, trainer)
    return tokenizer


TOKENIZERS = {"own": train_bpe(LESSONS, 320), "recent": _of_a_recent_model()}


def _library(tokenizer: Tokenizer) -> Encode:
    tokenizer.encode_special_tokens = True

    def encode_each(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]

    return encode_each


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(TEXTS, max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_text_has_the_tokens_of_the_tokenizers_library(name: str, texts: list[str]) -> None:
    library = _library(TOKENIZERS[name])
    fast = fast_encoder(TOKENIZERS[name], LESSONS * MANY, library)

    assert fast is not None
    for ours, theirs in zip(fast(texts), library(texts), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_special_token_that_is_spelled_out_is_text() -> None:
    texts = [f"a{END_OF_TEXT}b", *LESSONS * MANY]
    found = encode(TOKENIZERS["own"], texts)

    assert TOKENIZERS["own"].token_to_id(END_OF_TEXT) not in found[0]
    assert np.array_equal(found[0], _library(TOKENIZERS["own"])(texts[:1])[0])


def test_one_difference_on_the_sample_and_it_is_not_used() -> None:
    texts = [*LESSONS * MANY]
    library = _library(TOKENIZERS["own"])

    def other(some: Sequence[str]) -> list[np.ndarray]:
        return [*library(some)[:-1], np.array([1])]

    assert fast_encoder(TOKENIZERS["own"], texts, other) is None


def test_a_tokenizer_that_it_does_not_know_is_encoded_by_the_library() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = ["a b a"] * MANY

    assert fast_encoder(words, texts, _library(words)) is None
    assert [tokens.tolist() for tokens in encode(words, texts)] == [[0, 1, 0]] * MANY
