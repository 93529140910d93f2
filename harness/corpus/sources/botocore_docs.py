"""Technical documentation: what botocore says about cloud services, their operations and fields.

A document is one documentation string with its HTML removed, a group is a service. Only the newest
version of each service is read, since older ones repeat it; a string that occurs again, word for
word, is left out where it is read, because generated documentation repeats by construction. Strings
under 200 characters (about half of the text) are left out too: most are one templated sentence.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.corpus.documents import MIN_CHARACTERS, Document

BLOCK = re.compile(r"</?(?:p|li|ul|ol|dl|dt|dd|note|important|br|div|pre|h\d)\b[^>]*>")
TAG = re.compile(r"<[^>]*>")


def read(root: Path) -> Iterator[Document]:
    """Yield the documentation strings of every service of the package at `root`."""
    seen = set()
    for service in sorted(path for path in (root / "data").iterdir() if path.is_dir()):
        versions = sorted(service.glob("*/service-2.json.gz"))
        if not versions:
            continue
        model = json.loads(gzip.decompress(versions[-1].read_bytes()))
        for where, markup in _documentation(model, service.name):
            text = _plain(markup) if len(markup) >= MIN_CHARACTERS else ""
            if len(text) >= MIN_CHARACTERS and text not in seen:
                seen.add(text)
                yield Document(where, service.name, text)


def _documentation(node: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "documentation" and isinstance(value, str):
            yield where, value
        else:
            yield from _documentation(value, f"{where}/{key}")


def _plain(markup: str) -> str:
    lines = BLOCK.sub("\0", markup).split("\0")
    spelled = (" ".join(html.unescape(TAG.sub("", line)).split()) for line in lines)
    return "\n".join(line for line in spelled if line)
