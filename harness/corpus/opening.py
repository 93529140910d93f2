"""One corpus, one folder, named by its content: found if it exists, else built.

The id covers the spec of the corpus, the version or content of every source and the versions of the
libraries that shape the result, but no path: equal text is one corpus wherever its files lie. A
folder appears whole, by a rename, or not at all; a lease makes a second builder wait for the first,
on whatever machine, and what a killed builder left behind is removed under it. The code that reads
text is imported only where there is something to build: opening a finished corpus must stay cheap.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.corpus.sources import Source, find_source
from harness.corpus.store import MANIFEST, TokenStore, read_store
from harness.errors import SpecError
from harness.files import part_of
from harness.hashes import ContentHashes
from harness.identity import digest
from harness.leases import being_made
from harness.pretrained import fingerprint_tokenizer
from harness.spec import Corpus, FilesDomain, HubDomain, Texts

FORMAT = 4  # of the folder and of what leads to it; raise it whenever equal specs give new bytes
LIBRARIES = ("tokenizers", "fastokens", "datasketch")  # a new version may learn or compare anew


def _silent(message: str) -> None:
    """Report nothing."""


def fingerprint(spec: Corpus) -> dict[str, str]:
    """Return what stands for each domain's text: `package==version`, or a hash of its files."""
    return {name: source.fingerprint for name, source in _sources(spec).items()}


def corpus_id(spec: Corpus, folder: Path | None = None) -> str:
    """Return the id that the corpus has or would have; no text is read, files are hashed.

    `folder` is where corpora lie: hashes of large files are remembered there.
    """
    return str(_identity(spec, _sources(spec, folder))["id"])


def open_corpus(
    spec: Corpus, folder: Path, progress: Callable[[str], None] = _silent
) -> TokenStore:
    """Open the corpus under `folder`, after building it if this is its first use."""
    sources = _sources(spec, folder)
    identity = _identity(spec, sources)
    final = folder / identity["id"]
    if not (final / MANIFEST).exists():
        _build_once(identity, spec, sources, final, progress)
    return read_store(final)


def _sources(spec: Corpus, folder: Path | None = None) -> dict[str, Source]:
    hashes = ContentHashes(folder)
    sources = {
        name: find_source(name, domain, hashes) for name, domain in sorted(spec.domains.items())
    }
    hashes.save()
    _refuse_twins(spec, sources)
    return sources


def _refuse_twins(spec: Corpus, sources: Mapping[str, Source]) -> None:
    """Refuse two domains that read the same text in the same way."""
    met: dict[str, str] = {}
    for name, source in sources.items():
        if spec.domains[name].kind not in ("files", "hub"):
            continue  # a synthetic domain's text depends on its name; packages are compared whole
        texts = {key: value for key, value in source.facts.items() if key != "normalize"}
        other = met.setdefault(digest({"source": source.fingerprint, **texts}), name)
        if other != name:
            key = "paths" if isinstance(spec.domains[name], FilesDomain) else "dataset"
            raise SpecError(
                f"domains.{name}.{key}: reads the same text as domains.{other} "
                f"({source.fingerprint}); remove one of the two"
            )


def _refuse_changed(spec: Corpus, sources: Mapping[str, Source], folder: Path) -> None:
    """Refuse text that has changed since the id was made of it: the folder would lie."""
    hashes = ContentHashes(folder)
    for name, domain in spec.domains.items():
        in_folder = isinstance(domain, HubDomain) and os.path.isdir(
            os.path.expanduser(domain.dataset)
        )
        if not (in_folder or isinstance(domain, FilesDomain)):
            continue  # a package's version and a hub's commit cannot change in place
        if find_source(name, domain, hashes).fingerprint != sources[name].fingerprint:
            what = "its files changed while they were read"
            raise SpecError(f"domains.{name}: {what}; give the command again")


def _identity(spec: Corpus, sources: Mapping[str, Source]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "libraries": {library: version(library) for library in LIBRARIES},
        "sources": {name: source.fingerprint for name, source in sources.items()},
        "spec": spec.identity,
    }
    if any(isinstance(d, Texts) and d.group for d in spec.domains.values()):
        facts["groups"] = "whole"  # they could be torn before, and old folders may have them so
    if spec.tokenizer.source is not None:  # what it holds counts, not where it lies
        facts["tokenizer"] = fingerprint_tokenizer(Path(spec.tokenizer.source))
    return {"id": digest(facts), **facts}


def _build_once(
    identity: dict[str, Any],
    spec: Corpus,
    sources: Mapping[str, Source],
    final: Path,
    progress: Callable[[str], None],
) -> None:
    from harness.corpus.build import build, sync_folder

    final.parent.mkdir(parents=True, exist_ok=True)
    waiting = "corpus: waiting for another process that builds the same one"
    with being_made(final, lambda: progress(waiting)):
        if (final / MANIFEST).exists():
            return
        for leftover in (final, *final.parent.glob(f"{final.name}.part-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        part = part_of(final)
        part.mkdir()
        try:
            build(identity, spec, sources, part, progress)
            _refuse_changed(spec, sources, final.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(final)
        sync_folder(final.parent)
