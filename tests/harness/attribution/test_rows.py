"""Rows as text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from harness.attribution.rows import parted


@pytest.fixture
def sentencepiece() -> Tokenizer:
    """Return a tokenizer that decodes as LLaMA's does: a blank at the very beginning is lost."""
    words = ["<unk>", "\u2581Answer", ":", "\u2581Paris", "<0xC3>", "<0xA9>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return tokenizer


def test_an_answer_keeps_the_blank_before_it(sentencepiece: Tokenizer) -> None:
    assert parted(sentencepiece, [1, 2, 3], 2) == ("Answer:", " Paris")
    assert parted(sentencepiece, [3], 0) == ("", "Paris")
    assert sentencepiece.decode([3]) == "Paris"


def test_a_character_that_is_cut_in_two_loses_no_text(sentencepiece: Tokenizer) -> None:
    shown = parted(sentencepiece, [1, 4, 5, 3], 2)

    assert shown.prompt == "Answer\ufffd"
    assert shown.answer.endswith(" Paris")
