"""Legal prose: paragraphs of open licenses, in English.

A document is a paragraph, because licenses descend from each other paragraph by paragraph:
comparing whole licenses would leave one warranty clause in training and in held-out data. For the
same reason a paragraph is left out if half of its word 5-grams stood in earlier ones: without that,
a quarter of held-out text could be recited. A group is a family of licenses (gpl, bsd, cc, ...:
what stands before the first hyphen). Proprietary, commercial and source-available texts are left
out, and paragraphs under 200 characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.corpus.documents import MIN_CHARACTERS, Document
from harness.corpus.near_duplicates import shingles

OPEN_CATEGORIES = {
    "CLA",
    "Copyleft",
    "Copyleft Limited",
    "Patent License",
    "Permissive",
    "Public Domain",
}
FENCE = re.compile(r"^---[ \t]*$", re.MULTILINE)
FIELD = re.compile(r"^(\w+): (.*)$", re.MULTILINE)
MAX_SEEN = 0.5  # share of a paragraph's 5-grams that earlier paragraphs may have used
BLANK_LINE = re.compile(r"\n\s*\n")


def read(root: Path) -> Iterator[Document]:
    """Yield the paragraphs of every open license of the package at `root`."""
    paragraphs = list(_paragraphs(root))
    seen: set[int] = set()
    for document, hashes in zip(paragraphs, shingles([d.text for d in paragraphs]), strict=True):
        grams = hashes.tolist()
        if sum(gram in seen for gram in grams) < MAX_SEEN * len(grams):
            yield document
        seen.update(grams)


def _paragraphs(root: Path) -> Iterator[Document]:
    for path in sorted((root / "data" / "licenses").glob("*.LICENSE")):
        _, head, body = FENCE.split(path.read_text(encoding="utf-8"), maxsplit=2)
        facts = dict(FIELD.findall(head))
        if facts.get("category") not in OPEN_CATEGORIES or facts.get("language", "en") != "en":
            continue
        for number, paragraph in enumerate(BLANK_LINE.split(body)):
            text = " ".join(paragraph.split())
            if len(text) >= MIN_CHARACTERS:
                yield Document(f"{path.stem}/{number}", path.stem.split("-")[0], text)
