"""From sources to a finished folder: read, cap, split, drop duplicates, tokenize, write.

Everything is decided by the spec and by what the sources hold, so building twice gives the same
bytes in every file. A source is read through, and texts that may be kept go to the disk (spool.py):
what is held of a document is a kilobyte, its names and the signature that it is compared by.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from harness import allocator
from harness.corpus import store
from harness.corpus.bounded import read_capped
from harness.corpus.documents import SPLITS, Document, Placed, TextsOf, in_hash_order
from harness.corpus.near_duplicates import survivors
from harness.corpus.ready_tokenizer import Ready, read_ready
from harness.corpus.sources import Source
from harness.corpus.splitting import refuse_empty, split
from harness.corpus.spool import Spool, SpoolError
from harness.corpus.texture import text_facts
from harness.corpus.tokenizer import END_OF_TEXT_ID, num_tokens, train_bpe
from harness.corpus.writing import write_streams
from harness.errors import SpecError
from harness.spec import Corpus, SyntheticDomain, Texts

Facts = dict[str, Any]
Progress = Callable[[str], None]
LEARNED_FROM = 2**30  # bytes of text at most that merges are learned from: words are held by it


def build(
    identity: Facts, spec: Corpus, sources: Mapping[str, Source], folder: Path, progress: Progress
) -> None:
    """Write a whole corpus to `folder`, an empty directory, the manifest last."""
    with Spool(folder.parent) as spool:
        placed, domains = _read_all(spec, sources, spool, progress)
        progress(f"corpus: comparing {len(placed):,} documents")
        kept = _without_duplicates(placed, spec, domains, spool)
        allocator.give_back()  # what comparing and training free would add to what encoding takes
        ready = _tokenizer(kept, spec, domains, progress)
        allocator.give_back()
        progress(f"corpus: encoding {len(kept):,} documents")
        write_streams(kept, ready, spec.tokenizer.kind == "bpe", domains, folder)
        text = text_facts(kept, list(domains), folder)
    tokenizer_json = ready.tokenizer.to_str().encode()
    _write(folder / store.TOKENIZER, tokenizer_json)
    manifest = {
        **identity,
        "tokenizer": {
            "vocab_size": num_tokens(ready.tokenizer),
            "end_of_text": ready.end_of_text,
            "mask": ready.mask,
            "sha256": sha256(tokenizer_json).hexdigest(),
        },
        "near_duplicate": spec.splits.near_duplicate,
        "domains": domains,
        "text": text,
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


def _read_all(
    spec: Corpus, sources: Mapping[str, Source], spool: Spool, progress: Progress
) -> tuple[list[Placed], dict[str, Facts]]:
    """Return every domain's documents, placed, and what the manifest says of the domain."""
    placed: list[Placed] = []
    domains: dict[str, Facts] = {}
    for name in domain_order(spec):
        progress(f"corpus: reading {name} ({sources[name].fingerprint})")
        documents, domains[name] = _read(name, spec, sources[name], spool, progress)
        placed += documents
    return placed, domains


def _read(
    name: str, spec: Corpus, source: Source, spool: Spool, progress: Progress
) -> tuple[list[Placed], Facts]:
    domain = spec.domains[name]
    limit = None if isinstance(domain, SyntheticDomain) else domain.max_bytes
    try:
        read = read_capped(source, limit, spool, progress)
    except SpoolError:
        raise
    except OSError as error:
        raise SpecError(f"domains.{name}: {error}; reinstall {source.fingerprint}") from error
    if not read.num_read:
        raise SpecError(f"domains.{name}: no text found; reinstall {source.fingerprint}")
    if read.num_blank == read.num_read:
        raise SpecError(f"domains.{name}: all {read.num_read} documents are blank; give it text")
    kept = read.kept
    group = domain.group if isinstance(domain, Texts) else None
    placement = split(name, kept, spec.splits, group)
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
        "documents_read": read.num_read,
        "documents_blank": read.num_blank,
        "documents_kept": len(kept),
        "bytes_kept": sum(document.num_bytes for document in kept),
        "sha256": _digest(kept),
        "split_unit": placement.unit,
    }
    return placement.documents, facts


def _digest(documents: list[Document]) -> str:
    """Return the SHA-256 of a domain's text before splitting, in the order of its keyed hash."""
    whole = sha256()
    for document in in_hash_order(documents):
        whole.update(document.text.encode() + b"\0")
    return whole.hexdigest()


def _without_duplicates(
    placed: list[Placed], spec: Corpus, domains: dict[str, Facts], spool: Spool
) -> list[Placed]:
    verdicts = survivors(placed, spec.splits.near_duplicate, spool)
    gone = [(p, v) for p, v in zip(placed, verdicts, strict=True) if v is not None]
    removed = Counter((p.domain, p.split, v.kind) for p, v in gone)
    twins = Counter((p.domain, placed[v.twin].domain) for p, v in gone)
    kept = [p for p, verdict in zip(placed, verdicts, strict=True) if verdict is None]
    for name, facts in domains.items():
        facts["removed"] = {
            split_name: {kind: removed[name, split_name, kind] for kind in ("exact", "near")}
            for split_name in SPLITS
        }
        facts["copies_of"] = {twin: n for (one, twin), n in twins.most_common() if one == name}
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
            f"{near} nearly), {_whose(facts)}, more than splits.max_removed = {limit}; remove the "
            "copies, or the domain, or raise splits.max_removed"
        )


def _whose(facts: Facts) -> str:
    return "of " + ", ".join(f"domains.{twin} {n:,}" for twin, n in facts["copies_of"].items())


def _tokenizer(
    kept: list[Placed], spec: Corpus, domains: dict[str, Facts], progress: Progress
) -> Ready:
    if spec.tokenizer.source is not None:
        return read_ready(Path(spec.tokenizer.source))
    trained = [p.document for p in kept if p.split == "train" and domains[p.domain]["train"]]
    texts = TextsOf(_some(trained, LEARNED_FROM))
    progress(f"corpus: training a tokenizer on {len(texts):,} documents")
    return Ready(train_bpe(texts, spec.tokenizer.vocab_size), END_OF_TEXT_ID, None)


def _some(documents: list[Document], most: int) -> list[Document]:
    """Return the documents, or a fair sample of them that fills `most` bytes."""
    if sum(document.num_bytes for document in documents) <= most:
        return documents
    ordered = in_hash_order(documents)
    reached = accumulate(document.num_bytes for document in ordered)
    return ordered[: 1 + sum(size < most for size in reached)]


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
