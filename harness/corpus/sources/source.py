"""What the rest of the corpus knows of a domain's text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from harness.corpus.documents import Document


class Source(NamedTuple):
    """A domain's text, not read yet."""

    fingerprint: str
    """`package==version`, or a hash of files: equal fingerprints give equal text."""
    license: str
    read: Callable[[], Iterator[Document]]
    facts: Mapping[str, Any] = MappingProxyType({})
    """What the manifest says beyond that, as JSON values."""
