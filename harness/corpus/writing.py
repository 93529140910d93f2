"""The files of a corpus: tokens, where documents start, bytes of tokens, and what counts.

Each is written as documents are encoded, one at a time, so that none of them is held.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import allocator
from harness.corpus import store
from harness.corpus.array_file import ArrayFile, new_array
from harness.corpus.documents import SPLITS, Document, Placed, in_hash_order
from harness.corpus.ready_tokenizer import Ready
from harness.corpus.token_stream import encode_documents, narrow, token_type
from harness.corpus.tokenizer import bytes_per_token

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

Facts = dict[str, Any]


def write_streams(
    kept: list[Placed], ready: Ready, exact: bool, domains: dict[str, Facts], folder: Path
) -> None:
    """Write every domain's and split's files, and what is in them into `domains`.

    `exact`: every token of the tokenizer stands for a known number of bytes.
    """
    token_bytes = bytes_per_token(ready.tokenizer) if exact else None
    with (folder / store.DOCUMENTS).open("x", encoding="utf-8") as listed:
        for name, facts in domains.items():
            facts["splits"] = {}
            for split in SPLITS:
                here = [p.document for p in kept if (p.domain, p.split) == (name, split)]
                stream = _Stream(folder, name, split, in_hash_order(here))
                facts["splits"][split] = stream.write(ready, token_bytes, facts["loss"])
                listed.writelines(stream.lines())
                allocator.give_back()  # what threads of the encoder have freed adds up
        listed.flush()
        os.fsync(listed.fileno())


class _Stream:
    """One split of one domain."""

    def __init__(self, folder: Path, domain: str, split: str, documents: list[Document]) -> None:
        self.folder, self.domain, self.split = folder, domain, split
        self.documents = documents
        self.sizes = array("q")  # tokens of each, with the end of text

    def write(self, ready: Ready, token_bytes: NDArray[np.int32] | None, loss: str) -> Facts:
        """Write its files; return how much is in them."""
        here, dtype = (self.domain, self.split), token_type(ready)
        with_bytes = self.split in store.WITH_BYTES
        found = encode_documents(ready, self.documents, with_bytes and token_bytes is None)
        num_prompt = 0
        with ExitStack() as files:
            tokens = files.enter_context(self._new(store.tokens_file(*here), dtype))
            sizes = mask = None
            if with_bytes:
                sizes = files.enter_context(self._new(store.bytes_file(*here), np.uint16))
            if loss == "answer":
                mask = files.enter_context(self._new(store.mask_file(*here), np.bool_))
            for one in found:
                tokens.add(one.tokens)
                self.sizes.append(len(one.tokens))
                num_prompt += one.prompt
                if sizes is not None:
                    sizes.add(narrow(one.bytes if token_bytes is None else token_bytes[one.tokens]))
                if mask is not None:
                    mask.add(np.arange(len(one.tokens)) >= one.prompt)
        with self._new(store.starts_file(*here), np.int64) as starts:
            counts = np.array(self.sizes, np.int64)
            starts.add(np.cumsum(counts) - counts)
        return {
            "documents": len(self.documents),
            "groups": len({document.group for document in self.documents}),
            "tokens": tokens.size,
            "targets": tokens.size - num_prompt,
            "bytes": sum(document.num_bytes for document in self.documents),
        }

    def _new(self, name: str, dtype: DTypeLike) -> AbstractContextManager[ArrayFile]:
        return new_array(self.folder / name, dtype)

    def lines(self) -> Iterator[str]:
        """Yield what is known of each document, as JSON."""
        for document, size in zip(self.documents, self.sizes, strict=True):
            facts = {
                "domain": self.domain,
                "split": self.split,
                "group": document.group,
                "name": document.name,
                "sha256": document.sha256,
                "bytes": document.num_bytes,
                "tokens": size,  # with the end-of-text token
            }
            yield json.dumps(facts) + "\n"
