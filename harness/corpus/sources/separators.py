"""A text that is cut at a regular expression while it is read, into the pieces of the whole text.

A match counts once no further text can change it. That is told by what an expression can look at:
from where it begins to match, it passes at most as many characters as it has atoms, besides those
that its repeats without bound take. So behind that many others, nothing is looked at. The numbers
are read off the source of expressions that are made of characters, sets, repeats of one of these,
alternatives, anchors, plain groups and lookarounds. The price: with any other (a repeated group, a
reference) the text is held whole, as a piece always is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CHUNK = 1 << 20  # characters that are read at a time; more where a piece is longer
TAIL = 1 << 12  # characters at the end of what was read that are looked through first
FARTHEST = 1 << 16  # of characters that a match may pass; beyond it a text is held whole
FLAGS = re.UNICODE | re.MULTILINE | re.DOTALL | re.IGNORECASE
TOKEN = re.compile(
    r"\A\(\?[ims]+\)"  # flags, which the pattern has already
    r"|\((?:\?(?:[:=!]|<[=!])|(?!\?))|\)(?:\?[?+]?)?(?![*+?{])|\|"
    r"|(?P<anchor>(?:[\^$]|\\[AZbB])(?![*+?{]))"
    r"|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\]|\\[afnrtvdDsSwW]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}"
    r"|\\[^\w]|[^\\\[\](){}*+?|^$])"
    r"(?:(?:(?P<endless>[*+]|\{[0-9]*,\})|\?|\{(?:[0-9]*,)?(?P<most>[0-9]+)\})[?+]?)?",
    re.DOTALL,
)


class Reach(NamedTuple):
    """What an expression can look at, ahead of a place and behind it."""

    num_others: int
    """Nothing behind so many characters of `other`, and nothing so many characters back."""
    other: re.Pattern[str]
    """A character that no repeat without bound takes."""


def reach_of(expression: re.Pattern[str]) -> Reach | None:
    """Return what an expression can look at; None where that may be anything."""
    if expression.flags & ~FLAGS:
        return None
    num_others, place, endless = 1, 0, ["(?!)"]
    while place < len(expression.pattern):
        token = TOKEN.match(expression.pattern, place)
        if token is None:
            return None
        place = token.end()
        if token["endless"]:
            endless.append(token["set"])
        elif token["set"] or token["anchor"]:
            num_others += int(token["most"] or 1)
    if num_others > FARTHEST:
        return None
    return Reach(num_others, re.compile(f"(?!{'|'.join(endless)})(?s:.)", expression.flags))


def pieces(parts: Iterable[str], separator: re.Pattern[str]) -> Iterator[str]:
    """Yield what lies between the matches in the text that parts make, be it empty."""
    parts, reach = iter(parts), reach_of(separator)
    text, start, begin = "", 0, 0  # the last match ends at `start`; the search goes on at `begin`
    while True:
        more = _some(parts, math.inf if reach is None else max(CHUNK, len(text)))
        text += more
        decided = _decided(text, reach) if more and reach else len(text)
        for match in separator.finditer(text, begin):
            if match.start() > decided:
                break
            yield text[start : match.start()]
            start = match.end()
        if not more or reach is None:
            break
        gone = max(0, start - reach.num_others)
        text, start, begin = text[gone:], start - gone, max(start, decided + 1) - gone
    yield text[start:]


def _some(parts: Iterator[str], num_characters: float) -> str:
    """Return the next parts, together at least so many characters; the empty text at the end."""
    taken, length = [], 0
    for part in parts:
        taken.append(part)
        length += len(part)
        if length >= num_characters:
            break
    return "".join(taken)


def _decided(text: str, reach: Reach) -> int:
    """Return the last place from which no attempt to match looks at the end; -1 for none."""
    size = TAIL
    while True:
        tail = max(0, len(text) - size)
        others = [match.start() for match in reach.other.finditer(text, tail)]
        if len(others) >= reach.num_others:
            return others[-reach.num_others]
        if not tail:
            return -1
        size *= 4
