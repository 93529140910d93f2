"""Train rows other than the corpus's: some of them alone, with others' answers, with rows planted.

Attribution is judged by retraining, and what is retrained on has to be exact and cheap: no corpus
is built anew, so the tokenizer and every row that is left alone stay as they were, to the token.
Rows are planted where a row is a document, answers changed where it has a prompt; a choice of rows
can be made anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.corpus.store import TOKENIZER
from harness.corpus.tokenizer import encode, from_text
from harness.stream import DocumentShelf, Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.api import Batch
    from harness.corpus import TokenStore
    from harness.spec import Edit

    Document = tuple[NDArray[np.int64], int]  # tokens with the end of text, and the prompt's length


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some rows of a shelf, numbered anew from 0 in every domain."""

    shelf: Shelf
    rows: Mapping[str, NDArray[np.int64]]
    """By domain, as the shelf numbers them; a domain that is not there has all of its rows."""

    @property
    def tokens(self) -> int:
        """Return the targets of a row."""
        return self.shelf.tokens

    def num_rows(self, domain: str) -> int:
        """Return how many of its rows were chosen."""
        return len(self._own(domain))

    def telling_rows(self, domain: str) -> NDArray[np.int64]:
        """Return the chosen rows that have a target that counts."""
        return np.flatnonzero(np.isin(self._own(domain), self.shelf.telling_rows(domain)))

    def num_tokens(self, domain: str) -> float:
        """Return the domain's text, by the share of its targets that was chosen."""
        whole = range(self.shelf.num_rows(domain))
        kept, every = (self._targets(domain, rows) for rows in (self._own(domain), whole))
        return self.shelf.num_tokens(domain) * kept / every

    def batch(self, picks: list[tuple[str, int]], names: tuple[str, ...], device: str) -> Batch:
        """Return the picked rows; `Batch.rows` are numbered as the shelf numbers them."""
        found = [(domain, int(self._own(domain)[row])) for domain, row in picks]
        return self.shelf.batch(found, names, device)

    @cached_property
    def _all(self) -> dict[str, NDArray[np.int64]]:
        return {}

    def _own(self, domain: str) -> NDArray[np.int64]:
        if domain in self.rows:
            return self.rows[domain]
        return self._all.setdefault(domain, np.arange(self.shelf.num_rows(domain)))

    def _targets(self, domain: str, rows: range | NDArray[np.int64]) -> int:
        return sum(self.shelf.span(domain, int(row))[1] for row in rows)


def edited(shelf: Shelf, edit: Edit, store: TokenStore) -> Shelf | Chosen:
    """Return the rows of `shelf` as `edit` has them.

    ValueError where a row or a domain is not there, where a domain would be empty, or where rows
    without prompts are to be answered otherwise.
    """
    named = {*edit.only, *edit.silent, *edit.answers, *edit.planted}
    for name in sorted(named - set(shelf.streams)):
        raise ValueError(f"edit: {name!r} is no trained domain")
    for name in sorted({*edit.answers, *edit.planted}):
        asked = name in edit.answers or any(prompt for prompt, _ in edit.planted[name])
        if not isinstance(shelf, DocumentShelf) or (asked and name not in shelf.masks):
            why = f"the rows of {name!r} are no prompts with answers"
            raise ValueError(f"edit: {why}; set batch.pack = false, and prompt and answer")
        shelf = _rewritten(shelf, name, edit, store)
    for name, silent in edit.silent.items():
        shelf = _silenced(shelf, name, np.array(silent, dtype=np.int64))
    if not edit.only:
        return shelf
    rows = {name: np.array(chosen, dtype=np.int64) for name, chosen in edit.only.items()}
    for name, chosen in rows.items():
        _check(name, chosen, shelf.num_rows(name))
    return Chosen(shelf, rows)


def _check(name: str, rows: NDArray[np.int64], size: int) -> None:
    if not len(rows):
        raise ValueError(f"edit.only: no row of {name!r} is left")
    if rows.min() < 0 or rows.max() >= size:
        raise ValueError(f"edit: {name!r} has rows 0 to {size - 1}, not {rows.min()}..{rows.max()}")


def _silenced(shelf: Shelf, name: str, rows: NDArray[np.int64]) -> Shelf:
    """Return the shelf with rows of one domain whose targets do not count."""
    if not len(rows):
        return shelf
    _check(name, rows, shelf.num_rows(name))
    size = len(shelf.streams[name])
    mask = np.array(shelf.masks[name]) if name in shelf.masks else np.ones(size, dtype=np.bool_)
    for row in rows:
        first, targets = shelf.span(name, int(row))
        mask[first + 1 : first + targets + 1] = False
    if not replace(shelf, masks={name: mask}).telling_rows(name).size:
        raise ValueError(f"edit.silent: no row of {name!r} is left")
    return replace(shelf, masks={**shelf.masks, name: mask})


def _rewritten(shelf: DocumentShelf, name: str, edit: Edit, store: TokenStore) -> DocumentShelf:
    """Return the shelf with one domain's stream written anew."""
    documents = [_document(shelf, name, row) for row in range(shelf.num_rows(name))]
    before = list(documents)
    swaps = edit.answers.get(name, ())
    _check(name, np.array([row for swap in swaps for row in swap] or [0]), len(documents))
    for row, giver in swaps:
        (prompt, size), (answer, cut) = before[row], before[giver]
        documents[row] = np.concatenate([prompt[:size], answer[cut:]]), size
    documents += _planted(edit.planted.get(name, ()), store)
    sizes = np.array([len(tokens) for tokens, _ in documents])
    masks = dict(shelf.masks)
    if name in masks:
        counted = [np.arange(len(tokens)) >= size for tokens, size in documents]
        masks[name] = np.concatenate(counted)
    streams = {**shelf.streams, name: np.concatenate([tokens for tokens, _ in documents])}
    starts = {**shelf.starts, name: np.cumsum(sizes) - sizes}
    return replace(shelf, streams=streams, masks=masks, starts=starts)


def _document(shelf: DocumentShelf, name: str, row: int) -> Document:
    """Return a document, whole: the cut after a row's targets comes later."""
    starts, stream = shelf.starts[name], shelf.streams[name]
    end = int(starts[row + 1]) if row + 1 < len(starts) else len(stream)
    span = slice(int(starts[row]), end)
    prompt = int((~shelf.masks[name][span]).sum()) if name in shelf.masks else 0
    return np.asarray(stream[span], dtype=np.int64), prompt


def _planted(pairs: tuple[tuple[str, str], ...], store: TokenStore) -> list[Document]:
    if not pairs:
        return []
    tokenizer = from_text((store.folder / TOKENIZER).read_text())
    end = np.array([store.manifest["tokenizer"]["end_of_text"]])
    # apart, as a corpus encodes them, so that no token straddles the border
    prompts, answers = (encode(tokenizer, [pair[k] for pair in pairs]) for k in (0, 1))
    return [(np.concatenate([p, a, end]), len(p)) for p, a in zip(prompts, answers, strict=True)]
