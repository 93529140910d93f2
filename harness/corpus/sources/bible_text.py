"""Narrative prose: the World English Bible.

A document is a chapter, a group is a book. The package holds the text as one literal in a Python
file, with an index of verses; the file is parsed, not run, which is as fast and needs no import of
its dependencies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from harness.corpus.documents import MIN_CHARACTERS, Document

BOOK, CHAPTER = 1_000_000, 1_000  # a verse id is book * BOOK + chapter * CHAPTER + verse


def read(root: Path) -> Iterator[Document]:
    """Yield the chapters of the reader's edition in the package at `root`."""
    module = ast.parse((root / "plain_text_readers_bible.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
    _, content, starts, ends, _, _, titles, *_ = next(calls).args
    text = ast.literal_eval(content)
    start, end = ast.literal_eval(starts), ast.literal_eval(ends)
    assert isinstance(titles, ast.Dict)
    books = [ast.literal_eval(title) for title in titles.values]
    for chapter, group in groupby(sorted(start), key=lambda verse: verse // CHAPTER):
        verses = list(group)
        book, number = divmod(chapter, BOOK // CHAPTER)
        prose = " ".join(text[start[verses[0]] : end[verses[-1]]].replace("`", "'").split())
        if len(prose) >= MIN_CHARACTERS:
            yield Document(f"{books[book - 1]} {number}", books[book - 1], prose)
