"""One corpus, one folder, named by its content: found if it exists, else built.

The id covers the spec of the corpus, the version of every source and of the libraries that shape
the result. A folder appears whole, by a rename, or not at all; a lock makes a second builder wait
for the first, and whatever a killed builder left behind is removed under it. The code that reads
text is imported only where there is something to build: opening a finished corpus must stay cheap.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.corpus.sources import Source, find_source
from harness.corpus.store import MANIFEST, TokenStore, read_store
from harness.identity import digest
from harness.pretrained import fingerprint_tokenizer
from harness.spec import Corpus

FORMAT = 3  # of the folder and of what leads to it; raise it whenever equal specs give new bytes
LIBRARIES = ("tokenizers", "datasketch")  # a new version may learn or compare differently


def _silent(message: str) -> None:
    """Report nothing."""


def fingerprint(spec: Corpus) -> dict[str, str]:
    """Return what each domain's text comes from, as `package==version`; no text is read."""
    return {name: source.fingerprint for name, source in _sources(spec).items()}


def corpus_id(spec: Corpus) -> str:
    """Return the id that the corpus has or would have; no text is read."""
    return str(_identity(spec, _sources(spec))["id"])


def open_corpus(
    spec: Corpus, folder: Path, progress: Callable[[str], None] = _silent
) -> TokenStore:
    """Open the corpus under `folder`, after building it if this is its first use."""
    sources = _sources(spec)
    identity = _identity(spec, sources)
    final = folder / identity["id"]
    if not (final / MANIFEST).exists():
        _build_once(identity, spec, sources, final, progress)
    return read_store(final)


def _sources(spec: Corpus) -> dict[str, Source]:
    return {name: find_source(name, domain) for name, domain in sorted(spec.domains.items())}


def _identity(spec: Corpus, sources: Mapping[str, Source]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "libraries": {library: version(library) for library in LIBRARIES},
        "sources": {name: source.fingerprint for name, source in sources.items()},
        "spec": TypeAdapter(Corpus).dump_python(spec, mode="json"),
    }
    if spec.tokenizer.source is not None:  # what it holds counts, not where it lies
        facts["tokenizer"] = fingerprint_tokenizer(Path(spec.tokenizer.source))
        facts["spec"]["tokenizer"] |= {"source": None, "revision": None}
    facts["spec"]["domains"] = dict(sorted(facts["spec"]["domains"].items()))
    return {"id": digest(facts), **facts}


def _build_once(
    identity: dict[str, Any],
    spec: Corpus,
    sources: Mapping[str, Source],
    final: Path,
    progress: Callable[[str], None],
) -> None:
    from filelock import FileLock, Timeout

    from harness.corpus.build import build, sync_folder

    final.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(final.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("corpus: waiting for another process that builds the same one")
        lock.acquire()
    try:
        if (final / MANIFEST).exists():
            return
        for leftover in (final, *final.parent.glob(f"{final.name}.part-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        part = final.with_suffix(f".part-{os.getpid()}")
        part.mkdir()
        try:
            build(identity, spec, sources, part, progress)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(final)
        sync_folder(final.parent)
    finally:
        lock.release()
