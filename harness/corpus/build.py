"""From sources to a finished folder: read, cap, split, drop duplicates, tokenize, write.

Everything is decided by the spec and by what the sources hold, so building twice gives the same
bytes in every file. The price of comparing all documents with all others is that a corpus is held
in memory while it is built (about twenty times the size of its text).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.corpus import store
from harness.corpus.documents import SPLITS, Document, Placed, in_hash_order
from harness.corpus.near_duplicates import survivors
from harness.corpus.sources import Source
from harness.corpus.splitting import cap, refuse_empty, split
from harness.corpus.texture import text_facts
from harness.corpus.tokenizer import END_OF_TEXT_ID, bytes_per_token, encode, train_bpe
from harness.errors import SpecError
from harness.spec import Corpus, SyntheticDomain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

WIDEST_UINT16 = 65_535

Facts = dict[str, Any]
Progress = Callable[[str], None]


def build(
    identity: Facts, spec: Corpus, sources: Mapping[str, Source], folder: Path, progress: Progress
) -> None:
    """Write a whole corpus to `folder`, an empty directory, the manifest last."""
    placed: list[Placed] = []
    domains: dict[str, Facts] = {}
    for name in domain_order(spec):
        progress(f"corpus: reading {name} ({sources[name].fingerprint})")
        documents, domains[name] = _read(name, spec, sources[name])
        placed += documents
    progress(f"corpus: comparing {len(placed):,} documents")
    kept = _without_duplicates(placed, spec, domains)
    texts = [p.document.text for p in kept if p.split == "train" and domains[p.domain]["train"]]
    progress(f"corpus: training a tokenizer on {len(texts):,} documents")
    tokenizer = train_bpe(texts, spec.tokenizer.vocab_size)
    progress(f"corpus: encoding {len(kept):,} documents")
    tokenizer_json = tokenizer.to_str().encode()
    _write(folder / store.TOKENIZER, tokenizer_json)
    _save(folder / store.TOKEN_BYTES, bytes_per_token(tokenizer))
    _write_streams(kept, tokenizer, domains, folder)
    manifest = {
        **identity,
        "tokenizer": {
            "vocab_size": tokenizer.get_vocab_size(),
            "end_of_text": END_OF_TEXT_ID,
            "sha256": sha256(tokenizer_json).hexdigest(),
        },
        "near_duplicate": spec.splits.near_duplicate,
        "domains": domains,
        "text": text_facts(kept, list(domains), folder),
    }
    _write(folder / store.MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(folder)


def domain_order(spec: Corpus) -> list[str]:
    """Return the domains that are trained on, by name, then the others, by name."""
    return sorted(spec.domains, key=lambda name: (not spec.domains[name].train, name))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(name: str, spec: Corpus, source: Source) -> tuple[list[Placed], Facts]:
    domain = spec.domains[name]
    try:
        documents = list(source.read())
    except OSError as error:
        raise SpecError(f"domains.{name}: {error}; reinstall {source.fingerprint}") from error
    if not documents:
        raise SpecError(f"domains.{name}: no text found; reinstall {source.fingerprint}")
    whole = [document for document in documents if _says_something(document)]
    if not whole:
        raise SpecError(f"domains.{name}: all {len(documents)} documents are blank; give it text")
    kept = cap(whole, None if isinstance(domain, SyntheticDomain) else domain.max_bytes)
    placement = split(name, kept, spec.splits)
    package, _, version = source.fingerprint.partition("==")
    facts = {
        "train": domain.train,
        "kind": domain.kind,
        "source": source.fingerprint,
        "package": package if version else None,
        "version": version or None,
        "license": source.license,
        **source.facts,
        "loss": "answer" if any(document.prompt_chars for document in kept) else "all",
        "documents_read": len(documents),
        "documents_blank": len(documents) - len(whole),
        "documents_kept": len(kept),
        "bytes_kept": sum(document.num_bytes for document in kept),
        "sha256": _digest(kept),
        "split_unit": placement.unit,
    }
    return placement.documents, facts


def _says_something(document: Document) -> bool:
    """Tell whether there is anything to predict but white space."""
    return bool(document.text[document.prompt_chars :].strip())


def _digest(documents: list[Document]) -> str:
    """Return the SHA-256 of a domain's text before splitting, in the order of its keyed hash."""
    whole = sha256()
    for document in in_hash_order(documents):
        whole.update(document.text.encode() + b"\0")
    return whole.hexdigest()


def _without_duplicates(
    placed: list[Placed], spec: Corpus, domains: dict[str, Facts]
) -> list[Placed]:
    verdicts = survivors(placed, spec.splits.near_duplicate)
    removed = Counter((p.domain, p.split, v) for p, v in zip(placed, verdicts, strict=True) if v)
    kept = [p for p, verdict in zip(placed, verdicts, strict=True) if verdict is None]
    for name, facts in domains.items():
        facts["removed"] = {
            split_name: {kind: removed[name, split_name, kind] for kind in ("exact", "near")}
            for split_name in SPLITS
        }
        _refuse_losses(name, facts, spec)
        refuse_empty(name, [p for p in kept if p.domain == name], trained=facts["train"])
    return kept


def _refuse_losses(name: str, facts: Facts, spec: Corpus) -> None:
    counts = facts["removed"].values()
    exact, near = (sum(count[kind] for count in counts) for kind in ("exact", "near"))
    total, limit = facts["documents_kept"], spec.splits.max_removed
    if exact + near > limit * total:
        raise SpecError(
            f"domains.{name}: {exact + near} of {total} documents repeat others ({exact} exactly, "
            f"{near} nearly), more than splits.max_removed = {limit}; remove the copies from the "
            "data, or drop a domain that repeats another, or raise splits.max_removed"
        )


def _write_streams(
    kept: list[Placed], tokenizer: Tokenizer, domains: dict[str, Facts], folder: Path
) -> None:
    dtype = np.uint32 if tokenizer.get_vocab_size() > WIDEST_UINT16 else np.uint16
    lines: list[str] = []
    for name, facts in domains.items():
        facts["splits"] = {}
        for split_name in SPLITS:
            here = (name, split_name)
            documents = in_hash_order([p.document for p in kept if (p.domain, p.split) == here])
            encoded, prompts = _encode(tokenizer, documents)
            sizes = np.array([len(tokens) + 1 for tokens in encoded], np.int64)
            stream = np.full(sizes.sum(), END_OF_TEXT_ID, dtype)
            starts = np.cumsum(sizes) - sizes
            for start, tokens in zip(starts, encoded, strict=True):
                stream[start : start + len(tokens)] = tokens
            _save(folder / store.tokens_file(*here), stream)
            _save(folder / store.starts_file(*here), starts)
            if facts["loss"] == "answer":
                mask = np.ones(len(stream), np.bool_)
                for start, length in zip(starts, prompts, strict=True):
                    mask[start : start + length] = False
                _save(folder / store.mask_file(*here), mask)
            facts["splits"][split_name] = {
                "documents": len(documents),
                "groups": len({document.group for document in documents}),
                "tokens": len(stream),
                "targets": len(stream) - sum(prompts),
                "bytes": sum(document.num_bytes for document in documents),
            }
            lines += _lines(name, split_name, documents, sizes.tolist())
    _write(folder / store.DOCUMENTS, "".join(lines).encode())


def _encode(
    tokenizer: Tokenizer, documents: list[Document]
) -> tuple[list[NDArray[np.int64]], list[int]]:
    """Return the tokens of each document, and how many of them are its prompt.

    A prompt is encoded apart, so that no token straddles the border to what is predicted.
    """
    prompts = encode(tokenizer, [d.text[: d.prompt_chars] for d in documents])
    rests = encode(tokenizer, [d.text[d.prompt_chars :] for d in documents])
    pairs = list(zip(prompts, rests, strict=True))
    joined = [np.concatenate(pair) if len(pair[0]) else pair[1] for pair in pairs]
    return joined, [len(prompt) for prompt in prompts]


def _lines(
    domain: str, split_name: str, documents: list[Document], sizes: list[int]
) -> Iterator[str]:
    for document, size in zip(documents, sizes, strict=True):
        facts = {
            "domain": domain,
            "split": split_name,
            "group": document.group,
            "name": document.name,
            "sha256": document.sha256,
            "bytes": document.num_bytes,
            "tokens": size,  # with the end-of-text token
        }
        yield json.dumps(facts) + "\n"


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _save(path: Path, array: np.ndarray[Any, Any]) -> None:
    content = BytesIO()  # where numpy writes a file itself, a full disk is an error without a name
    np.save(content, array, allow_pickle=False)
    _write(path, content.getvalue())
