"""Rows in one fixed order, as tensors and as text: what is scored, and what is scored for.

A pool is every train row with a counted target, domain after domain in the order of the view, so
that row i is the same row in every stage and after every restart. Text is decoded from the very
tokens that the model sees: what was cut off is not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.identity import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from harness.api import Batch
    from harness.stream import Rows


TEXTS = 256  # rows that are decoded at once


class Shown(NamedTuple):
    """A row as a reader sees it."""

    prompt: str
    """Read and not predicted; "" for plain text."""
    answer: str
    """What has a loss."""

    @property
    def text(self) -> str:
        """Both, one after the other."""
        return self.prompt + self.answer


@dataclass(frozen=True, eq=False)
class Pool:
    """N train rows in a fixed order."""

    shelf: Rows
    names: tuple[str, ...]
    """Trained domains, in the order of `Batch.domains`."""
    picks: tuple[tuple[str, int], ...]
    """(domain, row inside its domain) of each row of the pool."""
    tokenizer: Tokenizer
    device: str
    corpus_id: str

    def __len__(self) -> int:
        """Return N."""
        return len(self.picks)

    def batch(self, index: slice | Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the rows at `index` as a batch."""
        chosen = range(len(self))[index] if isinstance(index, slice) else index
        return self.shelf.batch([self.picks[int(i)] for i in chosen], self.names, self.device)

    def shown(self, index: int) -> Shown:
        """Return one row as text."""
        return show(self.batch([index]), self.tokenizer)[0]

    def texts(self, index: Sequence[int] | NDArray[np.int64] | None = None) -> list[Shown]:
        """Return the rows at `index` as text, all of them by default; nothing of it on a device."""
        picks = [self.picks[int(i)] for i in (range(len(self)) if index is None else index)]
        found: list[Shown] = []
        for first in range(0, len(picks), TEXTS):
            some = picks[first : first + TEXTS]
            found += show(self.shelf.batch(some, self.names, "cpu"), self.tokenizer)
        return found

    def only(self, index: Sequence[int] | NDArray[np.int64]) -> Pool:
        """Return a pool of the rows at `index`, in that order."""
        picks = tuple(self.picks[int(i)] for i in index)
        parts = (self.shelf, self.names, picks, self.tokenizer, self.device, self.corpus_id)
        return Pool(*parts)

    @cached_property
    def id(self) -> str:
        """16 hex digits of what the rows hold: their corpus, how it is cut, and which they are."""
        cut = [type(self.shelf).__name__, self.shelf.tokens]  # type: ignore[attr-defined]
        return digest(
            {"corpus": self.corpus_id, "cut": cut, "picks": [list(p) for p in self.picks]}
        )


@dataclass(frozen=True, eq=False)
class Queries:
    """Q rows whose loss is to be explained."""

    batch: Batch
    """[Q, T]; `domains` are 0 and `rows` 0 to Q - 1 where they come from outside of the corpus."""
    shown: tuple[Shown, ...]
    names: tuple[str, ...]
    """A short name of each, unique, safe as a file name."""
    id: str
    """16 hex digits of what they hold."""

    def __len__(self) -> int:
        """Return Q."""
        return len(self.names)


def show(batch: Batch, tokenizer: Tokenizer) -> list[Shown]:
    """Return the rows of a batch as text: up to the first counted target, and from there on."""
    found = []
    inputs, targets = batch.inputs.cpu().numpy(), batch.targets.cpu().numpy()
    for row, mask in enumerate(batch.mask.cpu().numpy()):
        counted = np.flatnonzero(mask)
        if not len(counted):
            found.append(Shown(tokenizer.decode(inputs[row].tolist()), ""))
            continue
        first, last = int(counted[0]), int(counted[-1])
        tokens = [int(inputs[row][0]), *targets[row][: last + 1].tolist()]
        # a row's first token is no target, but it is a part of a plain text
        cut = first + 1 if first else 0
        found.append(parted(tokenizer, tokens, cut))
    return found


def parted(tokenizer: Tokenizer, tokens: Sequence[int], cut: int) -> Shown:
    """Return tokens as text, the first `cut` as the prompt, without special tokens.

    The answer is what the other tokens add to the text: by themselves some tokenizers decode them
    without the blank that stands before them.
    """
    before, whole = (tokenizer.decode(list(part)) for part in (tokens[:cut], tokens))
    is_split = not whole.startswith(before)  # a character of several tokens, cut in two
    return Shown(before, tokenizer.decode(list(tokens[cut:])) if is_split else whole[len(before) :])
