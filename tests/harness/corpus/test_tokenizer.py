"""The byte-level BPE: learns from training text alone, and accounts for every byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Loaded

from harness.corpus import TokenStore, open_corpus
from harness.corpus.documents import Document
from harness.corpus.splitting import split
from harness.corpus.tokenizer import END_OF_TEXT, bytes_per_token, encode, train_bpe
from harness.spec import Corpus, Splits, SyntheticDomain, Tokenizer

TRAINED = train_bpe(
    ["the cat sat on the mat, naïvely: 你好 " * 9, "def f(x):\n    return x\n" * 9], 320
)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_tokens_stand_for_exactly_the_bytes_of_the_text(text: str) -> None:
    """Any text: decoding gives it back, and token sizes add up to its UTF-8 bytes."""
    (tokens,) = encode(TRAINED, [text])

    assert TRAINED.decode(tokens.tolist(), skip_special_tokens=False) == text
    assert bytes_per_token(TRAINED)[tokens].sum() == len(text.encode())


def test_the_end_of_text_token_cannot_be_written_by_a_document() -> None:
    """Its spelling inside a text is encoded as characters."""
    (tokens,) = encode(TRAINED, [f"a {END_OF_TEXT} b"])

    assert 0 not in tokens
    assert TRAINED.decode(tokens.tolist()) == f"a {END_OF_TEXT} b"
    assert bytes_per_token(TRAINED)[0] == 0


def test_held_out_and_untrained_text_teaches_no_merge(
    plant: Callable[[dict[str, Iterable[Document]]], None], tmp_path: Path
) -> None:
    """A word that occurs only outside of training text never becomes a token."""
    marks = {"train": "zqaazq", "probe": "zqbbzq", "tuning": "zqcczq", "heldout": "zqddzq"}
    texts = [Document(f"{i}", f"{i}", f"{i:02} zqxxzq " * 40) for i in range(99)]
    places = {p.document.name: p.split for p in split("a", texts, Splits()).documents}
    marked = [  # of equal size, so that they are split as the texts were
        Document(d.name, d.group, d.text.replace("zqxxzq", marks[places[d.name]])) for d in texts
    ]
    other = [Document(f"{i}", f"{i}", f"{i:03} zqeezq " * 40) for i in range(99)]
    plant({"a": marked, "other": other})
    spec = Corpus(
        domains={"a": SyntheticDomain(), "other": SyntheticDomain(train=False)},
        tokenizer=Tokenizer(vocab_size=600),
    )

    store = open_corpus(spec, tmp_path)

    learned = json.loads((store.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert any("aa" in token for token in learned)
    assert not [token for token in learned for pair in ("bb", "cc", "dd", "ee") if pair in token]


def test_every_document_ends_with_the_end_of_text_token(small: TokenStore) -> None:
    """Also the last one; and the saved tokenizer has the store's vocabulary."""
    tokenizer = Loaded.from_file(str(small.folder / "tokenizer.json"))
    starts = small.documents("a", "probe")
    stream = np.load(small.folder / "a.probe.tokens.npy")

    assert tokenizer.get_vocab_size() == small.vocab_size
    assert stream[starts[1:] - 1].tolist() == [0] * (len(starts) - 1)
    assert stream[-1] == 0


def test_bytes_by_position_are_those_of_the_tokens(small: TokenStore) -> None:
    """The exact map of a BPE trained here, written out for the splits that are reported."""
    sizes = bytes_per_token(Loaded.from_file(str(small.folder / "tokenizer.json")))
    for split_name in ("tuning", "heldout"):
        counts = small.num_bytes("a", split_name)
        assert counts.dtype == np.uint16
        assert counts.tolist() == sizes[small.stream("a", split_name)].tolist()
    assert not list(small.folder.glob("*.train.bytes.npy"))
