"""Python code: the modules of sympy, less its tests.

A document is a file, a group is a subpackage two levels deep. Files under 200 characters (empty
`__init__.py`) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.corpus.documents import MIN_CHARACTERS, Document


def read(root: Path) -> Iterator[Document]:
    """Yield every module of the package at `root`."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if "tests" in parts:
            continue
        text = path.read_text(encoding="utf-8")
        if len(text) >= MIN_CHARACTERS:
            yield Document("/".join(parts), ".".join(parts[:-1][:2]) or "top level", text)
