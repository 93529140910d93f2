"""A sentence of a report's first lines, and how far it may be believed."""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """A sentence; `kind` is proven, measured or warning."""

    kind: str
    text: str
