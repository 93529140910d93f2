"""What a corpus is made of: documents, in groups, each in one of four splits.

The group (a service, a book, a family of licenses) is the unit that splits keep together, because
two documents of one group resemble each other more than a new document would. Every order here is
the order of a keyed hash: independent of Python's hash seed, of the file system and of the order
of keys in the spec. Its price is that neighbors in the source are no neighbors in the stream; its
gain is that any beginning of a stream is a fair sample of its documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from operator import attrgetter
from typing import overload

SPLITS = ("train", "probe", "tuning", "heldout")
STRICTEST_FIRST = ("heldout", "tuning", "probe", "train")
MIN_CHARACTERS = 200  # shorter units of real text are headings, stubs and templates


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is never divided between splits."""

    name: str
    """Where it comes from; unique in its domain."""
    group: str
    text: str
    split: str | None = None
    """The ready split that its source declares; None where we are to choose."""
    prompt_chars: int = 0
    """So many characters at its beginning are read and not predicted."""
    num_bytes: int = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Measure the text once."""
        raw = self.text.encode()
        object.__setattr__(self, "num_bytes", len(raw))
        object.__setattr__(self, "sha256", sha256(raw).hexdigest())


@dataclass(frozen=True, slots=True)
class Placed:
    """A document of a domain, and the split that it was assigned to."""

    domain: str
    split: str
    document: Document


@dataclass(frozen=True)
class TextsOf(Sequence[str]):
    """The texts of documents, or a part of each, taken when they are asked for."""

    documents: Sequence[Document]
    part: Callable[[Document], str] = attrgetter("text")

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return list(map(self.part, self.documents[index]))
        return self.part(self.documents[index])


def hash_key(*parts: str) -> bytes:
    """Return a sort key that looks random and is the same everywhere."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def in_hash_order(documents: list[Document]) -> list[Document]:
    """Return the documents in an order that has nothing to do with where they came from."""
    return sorted(documents, key=lambda document: hash_key(document.group, document.name))
