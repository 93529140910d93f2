"""Names that are asked for by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import SpecError


def matching(names: Sequence[str], key: str, patterns: Sequence[str], what: str) -> list[int]:
    """Return the places of the names that any pattern is found in, in order; [] for no pattern.

    SpecError names `key` where a pattern is none, or finds no name; `what` says what they name.
    """
    found: set[int] = set()
    for pattern in patterns:
        try:
            matches = {place for place, name in enumerate(names) if re.search(pattern, name)}
        except re.error as error:
            raise SpecError(f"{key}: {pattern!r} is no regular expression: {error}") from None
        if not matches:
            few = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            raise SpecError(f"{key}: {pattern!r} matches no {what}; there are {few}")
        found |= matches
    return sorted(found)
