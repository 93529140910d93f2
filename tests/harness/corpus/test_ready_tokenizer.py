"""Tokenizers from outside: found in several forms, and every byte of a text accounted for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Loaded
from tokenizers import models, normalizers, pre_tokenizers

from harness.corpus import corpus_id, open_corpus
from harness.corpus.ready_tokenizer import read_ready
from harness.corpus.tokenizer import encode, encoded_with_bytes, train_bpe
from harness.errors import SpecError
from harness.spec import Corpus, SyntheticDomain, Tokenizer

BPE = train_bpe(["the cat sat on the mat, naïvely: 你好 " * 9], 320)


def wordpiece() -> Loaded:
    """Return a BERT-like tokenizer: lower case, no accents, no white space, unknown words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["the", "cat"]
    tokenizer = Loaded(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def folder_of(tokenizer: Loaded, folder: Path, **special: Any) -> Path:
    """Save a tokenizer as a model's folder has it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


WORDS = wordpiece()
WORDS.no_truncation()
WORDS.no_padding()


@given(st.text(max_size=60))
@settings(max_examples=40)
@pytest.mark.parametrize("tokenizer", [BPE, WORDS], ids=["bpe", "wordpiece"])
def test_the_bytes_of_a_text_add_up_whatever_is_normalized(tokenizer: Loaded, text: str) -> None:
    """Tokens are those of the fast path; what was dropped is counted all the same."""
    ((tokens, counts),) = encoded_with_bytes(tokenizer, [text])

    assert tokens.tolist() == encode(tokenizer, [text])[0].tolist()
    assert len(counts) == len(tokens) + 1
    assert counts.min(initial=0) >= 0
    assert counts.sum() == len(text.encode())


def test_bytes_run_from_the_end_of_one_token_to_the_end_of_the_next() -> None:
    """White space belongs to the word after it, and at the end to the end-of-text token."""
    ((tokens, counts),) = encoded_with_bytes(WORDS, ["The  cät 你 \n"])

    assert [WORDS.id_to_token(i) for i in tokens] == ["the", "cat", "[UNK]"]
    assert counts.tolist() == [3, 2 + 4, 1 + 3, 2]


def test_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    """A document that spells out [MASK] or the end-of-text token cannot write one."""
    folder = folder_of(wordpiece(), tmp_path / "w", sep_token="[SEP]", mask_token="[MASK]")
    ready = read_ready(folder)
    ((tokens, _),) = encoded_with_bytes(ready.tokenizer, ["the [MASK] cat [SEP]"])

    assert (ready.end_of_text, ready.mask) == (3, 4)
    assert not {3, 4} & set(tokens.tolist())


def test_truncation_and_padding_are_taken_off(tmp_path: Path) -> None:
    """A saved tokenizer may cut texts to a model's length; a corpus may not."""
    ready = read_ready(folder_of(wordpiece(), tmp_path / "w"))

    assert len(encode(ready.tokenizer, ["cat " * 50])[0]) == 50
    assert len(encode(ready.tokenizer, ["cat"])[0]) == 1


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({"tokenizer_config.json": {"eos_token": "the"}}, "the"),
        ({"tokenizer_config.json": {"eos_token": {"content": "the"}}}, "the"),
        ({"special_tokens_map.json": {"eos_token": "the"}}, "the"),
        ({"config.json": {"eos_token_id": 2}}, "[CLS]"),
        ({"tokenizer_config.json": {"eos_token": None, "sep_token": "cat"}}, "cat"),
        ({}, "[SEP]"),
    ],
)
def test_the_end_of_text_is_what_the_folder_says(
    files: dict[str, Any], end: str, tmp_path: Path
) -> None:
    """Its eos token, then its separator, then what tokenizers usually call it."""
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert WORDS.id_to_token(read_ready(path).end_of_text) == end


def test_a_file_of_the_users_with_a_fault_is_told_of_and_not_to_be_deleted(tmp_path: Path) -> None:
    folder = folder_of(wordpiece(), tmp_path / "w")
    (folder / "tokenizer_config.json").write_bytes(b'\xef\xbb\xbf{"eos_token": "the"}')

    says = r"^tokenizer\.source: .*tokenizer_config\.json is no JSON: Unexpected UTF-8 BOM"
    with pytest.raises(SpecError, match=says) as caught:
        read_ready(folder)
    assert "delete" not in str(caught.value)


def test_gpt2s_two_files_are_a_whole_tokenizer(tmp_path: Path) -> None:
    """Where transformers 5 makes an empty one without a word."""
    BPE.model.save(str(tmp_path))
    ready = read_ready(tmp_path)

    assert ready.end_of_text == 0
    assert encode(ready.tokenizer, ["the cat"])[0].tolist() == encode(BPE, ["the cat"])[0].tolist()


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """In one line that names the key."""
    empty = tmp_path / "empty"
    empty.mkdir()
    Loaded(models.BPE()).save(str(empty / "tokenizer.json"))
    endless = Loaded(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    broken, nothing = tmp_path / "broken.json", tmp_path / "nothing"
    broken.write_text("{")
    nothing.mkdir()
    cases = {
        empty: "empty vocabulary",
        folder_of(endless, tmp_path / "endless"): "neither an end-of-text nor a separator",
        broken: "is no tokenizer",
        nothing: "is no tokenizer",
    }
    for path, complaint in cases.items():
        with pytest.raises(SpecError, match=complaint) as caught:
            read_ready(path)
        assert str(caught.value).startswith("tokenizer.source: ")
        assert "\n" not in str(caught.value)


def corpus_with(source: Path) -> Corpus:
    """Return a small corpus in the tokens of a folder."""
    domains = {n: SyntheticDomain(seed=s, num_documents=40) for s, n in enumerate("ab")}
    return Corpus(domains=domains, tokenizer=Tokenizer(kind="pretrained", source=str(source)))  # type: ignore[arg-type]


def test_a_corpus_in_a_ready_tokenizers_tokens(tmp_path: Path) -> None:
    """Ends, mask and bytes are the tokenizer's; equal files elsewhere are the same corpus."""
    source = folder_of(wordpiece(), tmp_path / "w", sep_token="[SEP]", mask_token="[MASK]")
    spec = corpus_with(source)
    store = open_corpus(spec, tmp_path / "corpora")

    assert (store.vocab_size, store.mask_token) == (59, 4)
    assert (store.folder / "tokenizer.json").exists()
    for split in ("tuning", "heldout"):
        counts, stream = store.num_bytes("a", split), store.stream("a", split)
        starts = store.documents("a", split)
        lines = [json.loads(x) for x in (store.folder / "documents.jsonl").read_text().splitlines()]
        wanted = [x["bytes"] for x in lines if (x["domain"], x["split"]) == ("a", split)]
        assert counts.dtype == np.uint16
        assert np.add.reduceat(counts.astype(int), starts).tolist() == wanted
        assert stream[-1] == 3
    moved = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    assert corpus_id(corpus_with(moved)) == store.id
    folder_of(wordpiece(), moved, eos_token="the")
    assert corpus_id(corpus_with(moved)) != store.id
