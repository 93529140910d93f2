"""What is done to a text before anything else, as the spec declares it.

It applies to what was read (a file, a piece of one, a value of a column) and not to the words of a
template, which the user has written as they should be. By default nothing changes, since text that
was silently made better is no longer the text that others measure on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from harness.spec import Normalization

# The category Cc, less what breaks lines and tabs; zero-width characters have another category.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def normalizer(how: Normalization) -> Callable[[str], str]:
    """Return the function that normalizes a text; applying it twice is applying it once."""
    steps: list[Callable[[str], str]] = []
    form = how.unicode
    if form != "none":
        steps.append(lambda text: unicodedata.normalize(form, text))
    if how.case == "lower":
        steps.append(str.lower)
        steps += steps[:-1]  # lower case may leave the form: a capital dotted I becomes two
    if how.control == "remove":
        steps.append(lambda text: CONTROL.sub("", text))
        # a mark may now stand beside the letter that it composes with
        steps += [lambda text: unicodedata.normalize(form, text)] if form != "none" else []
    if how.whitespace != "keep":
        steps.append(_strip if how.whitespace == "strip" else _collapse)

    def apply(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return apply


def _strip(text: str) -> str:
    return "\n".join(line.strip() for line in re.split(r"\r\n|\r|\n", text)).strip()


def _collapse(text: str) -> str:
    return " ".join(text.split())
