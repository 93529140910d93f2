"""A finished corpus: memory-mapped token streams, one for each domain and split.

Opening one reads no text and imports nothing but numpy; pages of tokens come in as rows are asked
for, and processes on one machine share them. Rows are windows on the stream, so a row may run over
the end of a document (an end-of-text token tells the model), and no token is padded or dropped but
the last few of a stream.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.corpus.documents import SPLITS
from harness.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
DOCUMENTS = "documents.jsonl"
TOKENIZER = "tokenizer.json"
WITH_BYTES = ("tuning", "heldout")  # splits that are reported in bits per byte


def tokens_file(domain: str, split: str) -> str:
    """Return the name of a stream's file."""
    return f"{domain}.{split}.tokens.npy"


def bytes_file(domain: str, split: str) -> str:
    """Return the name of the file of the UTF-8 bytes that each token accounts for."""
    return f"{domain}.{split}.bytes.npy"


def starts_file(domain: str, split: str) -> str:
    """Return the name of the file that holds where a stream's documents start."""
    return f"{domain}.{split}.documents.npy"


def mask_file(domain: str, split: str) -> str:
    """Return the name of the file that tells which tokens of a stream count as targets."""
    return f"{domain}.{split}.mask.npy"


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Rows of tokens by domain, split and index. Read-only."""

    id: str
    folder: Path
    vocab_size: int
    domains: tuple[str, ...]
    """Those that are trained on, by name; then the others, by name."""
    trained: tuple[str, ...]
    mask_token: int | None
    """The tokenizer's own; None where it has none, as a BPE trained here."""
    manifest: dict[str, Any] = field(repr=False)
    _streams: Mapping[tuple[str, str], NDArray[Any]] = field(repr=False)
    _masks: Mapping[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict, repr=False)

    def stream(self, domain: str, split: str) -> NDArray[Any]:
        """Return the token ids of a domain's split, memory-mapped; it leads to no other split."""
        return self._streams[domain, split]

    def mask(self, domain: str, split: str) -> NDArray[np.bool_] | None:
        """Return which tokens of a stream count as targets; None where all of them do."""
        return self._masks.get((domain, split))

    def num_rows(self, domain: str, split: str, tokens: int) -> int:
        """Return how many rows of `tokens` targets the stream holds."""
        return (len(self._streams[domain, split]) - 1) // tokens

    def rows(
        self, domain: str, split: str, index: NDArray[np.int64], tokens: int
    ) -> NDArray[np.int64]:
        """Return rows at `index`, int64 of shape [n, tokens + 1].

        Row i starts at token i * tokens and ends with the first token of the next row, so each
        token but the very first of the stream is a target exactly once.
        """
        index = np.asarray(index, np.int64)
        count = self.num_rows(domain, split, tokens)
        if index.size and not (index.min() >= 0 and index.max() < count):
            raise IndexError(f"{domain} {split} has rows 0 to {count - 1}; asked for {index}")
        window = index[:, None] * tokens + np.arange(tokens + 1)  # [n, tokens + 1]
        rows: NDArray[np.int64] = self._streams[domain, split][window].astype(np.int64)
        return rows

    def num_bytes(self, domain: str, split: str) -> NDArray[Any]:
        """Return the UTF-8 bytes that each token of a tuning or held-out stream accounts for."""
        path = self.folder / bytes_file(domain, split)
        return np.asarray(_mapped(path, len(self._streams[domain, split])))

    def documents(self, domain: str, split: str) -> NDArray[np.int64]:
        """Return where each document starts in the stream, in tokens."""
        starts: NDArray[np.int64] = np.load(self.folder / starts_file(domain, split))
        return starts


def read_store(folder: Path) -> TokenStore:
    """Open a complete corpus folder."""
    manifest = json.loads((folder / MANIFEST).read_text())
    streams, masks = {}, {}
    for domain, facts in manifest["domains"].items():
        for split in SPLITS:
            size = facts["splits"][split]["tokens"]
            streams[domain, split] = at_random(_mapped(folder / tokens_file(domain, split), size))
            if facts.get("loss") == "answer":
                masks[domain, split] = np.asarray(_mapped(folder / mask_file(domain, split), size))
    return TokenStore(
        id=manifest["id"],
        folder=folder,
        vocab_size=manifest["tokenizer"]["vocab_size"],
        domains=tuple(manifest["domains"]),
        trained=tuple(name for name, facts in manifest["domains"].items() if facts["train"]),
        mask_token=manifest["tokenizer"]["mask"],
        manifest=manifest,
        _streams=streams,
        _masks=masks,
    )


def _mapped(path: Path, size: int) -> NDArray[Any]:
    """Return the array in a file, memory-mapped (a np.memmap), if it has `size` entries."""
    try:
        # an empty file cannot be mapped
        array: NDArray[Any] = np.load(path, mmap_mode="r" if size else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: unreadable ({error}); delete {path.parent}") from error
    if len(array) != size:
        raise SpecError(f"{path}: {len(array)} tokens is damaged; delete {path.parent}")
    return array


def at_random(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array of a file, mapped so that no more is read of it than is asked for.

    Rows are drawn in random order. Reading ahead would fetch, and keep in memory, some thirty times
    a short row.
    """
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_RANDOM"):
        array._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return np.asarray(array)
