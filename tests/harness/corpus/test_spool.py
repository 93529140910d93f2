"""Texts that are put aside come back as they were, and a disk that is full says where."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus.documents import Document, TextsOf
from harness.corpus.spool import Spool, SpoolError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=12)


@pytest.mark.parametrize("call", ["write", "pread", "ftruncate"])
def test_a_disk_that_fails_is_not_the_sources_fault(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the folder, and tells itself apart from one of reading."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Spool(tmp_path) as spool:
        spool.add(b"text")
        monkeypatch.setattr(os, call, full)

        with pytest.raises(SpoolError, match=f"No space left on device: '{tmp_path}'") as caught:
            {"write": spool.put, "pread": lambda _: spool.read(0, 4)}.get(
                call, lambda _: spool.rewind(0)
            )(Document("a", "g", "text"))
        monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC


@given(texts=TEXTS, data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_document_is_what_it_was(
    texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In any order of asking, in any script, and while more is added."""
    documents = [
        Document(f"d{i}", "g", text, None, min(2, len(text))) for i, text in enumerate(texts)
    ]
    with Spool(tmp_path_factory.mktemp("spool")) as spool:
        kept = [spool.put(document) for document in documents]
        order = data.draw(st.permutations(range(len(kept))))

        assert [kept[i].text for i in order] == [texts[i] for i in order]
        for one, other in zip(kept, documents, strict=True):
            facts = ("name", "group", "split", "prompt_chars", "num_bytes", "sha256")
            assert [getattr(one, f) for f in facts] == [getattr(other, f) for f in facts]
        late = spool.put(Document("late", "g", "the last"))
        assert late.text == "the last"
        assert [one.text for one in kept] == texts


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """The file has no name, so that a killed builder leaves none either."""
    with Spool(tmp_path) as spool:
        spool.put(Document("a", "g", "text"))

        assert list(tmp_path.iterdir()) == []


def test_bytes_that_come_and_go_in_small_parts_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may write or read fewer than it was asked; where there are none, that is said."""
    write, read = os.write, os.pread
    with Spool(tmp_path) as spool, monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, raw: write(file, raw[:3]))
        patch.setattr(os, "pread", lambda file, size, start: read(file, min(size, 2), start))
        start = spool.add(b"first") + spool.add(b"the second")

        assert (start, spool.read(start, 10)) == (5, b"the second")
        with pytest.raises(SpoolError, match="what was put aside is not there"):
            spool.read(start, 11)
        spool.rewind(5)
        assert spool.add(b"other") == 5
        assert spool.read(0, spool.size) == b"firstother"


def test_texts_are_taken_one_by_one_or_in_slices() -> None:
    """A part of each where one is asked for, and nothing before it is asked for."""
    documents = [Document(str(i), "g", text) for i, text in enumerate(("one", "two", "three"))]
    asked: list[str] = []

    def first(document: Document) -> str:
        asked.append(document.name)
        return document.text[0]

    assert list(TextsOf(documents)) == ["one", "two", "three"]
    assert TextsOf(documents)[1:] == ["two", "three"]
    firsts = TextsOf(documents, first)
    assert (len(firsts), asked) == (3, [])
    assert (firsts[2], asked) == ("t", ["2"])
