"""A text cut while it is read: the pieces are those of the whole text, and few are held."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.corpus.sources import separators
from harness.corpus.sources.separators import pieces, reach_of

SEPARATORS = (
    r"\n\n",
    r"\n\s*\n",
    r"\n(?= = [^=\n]+ = *\n)",  # these two are what `init` writes
    r"(?m)^a+$",
    r"a(?:b|\n*a)?(?!b)",
    r"(?<=b)\n|(?<!a)b{2,}",
    r"ab*$|\Ab|\ba\Z",
    r"(?=a)",
    r"(?s)a.*b",
    r"(a|b\n)+\n",  # of unknown reach, as the next
    r"(a)\1",
)
SETS = ["a", "b", r"\n", ".", r"\s", r"\W", "[ab]", r"[^a\n]", "[]a]", r"\x61", r"\-"]
TIMES = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}", "*?", "??", "*+", "?+"]
ANCHORS = ["^", "$", r"\b", r"\B", r"\A", r"\Z", "(?<=a)", r"(?<!\na)"]
ATOM = st.builds(str.__add__, st.sampled_from(SETS), st.sampled_from(TIMES))
EXPRESSION = st.recursive(
    st.lists(ATOM | st.sampled_from(ANCHORS), min_size=1, max_size=4).map("".join),
    lambda inner: (
        st.builds("{}({}{})".format, inner, st.sampled_from(["", "?:", "?=", "?!"]), inner)
        | st.builds("{}({}){}".format, inner, inner, st.sampled_from(["?", "??", "?+", "*"]))
        | st.builds("{}|{}".format, inner, inner)
        | st.builds("{}{}".format, inner, inner)
    ),
    max_leaves=4,
)
FLAGS = st.sampled_from(["", "", "(?m)", "(?s)", "(?im)"])


def cut_whole(text: str, separator: re.Pattern[str]) -> list[str]:
    """Return the pieces, found with all of the text there."""
    found, start = [], 0
    for match in separator.finditer(text):
        found.append(text[start : match.start()])
        start = match.end()
    return [*found, text[start:]]


@given(
    st.sampled_from(SEPARATORS) | st.builds(str.__add__, FLAGS, EXPRESSION),
    st.text("aaabb\n\n -A", max_size=60),
    st.sampled_from([1, 2, 3, 7, 20]),
    st.sampled_from([1, 3, 4096]),
)
def test_the_pieces_are_those_of_the_whole_text_however_it_is_read(
    source: str, text: str, chunk: int, tail: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        separator = re.compile(source)
    sizes = mock.patch.multiple(separators, CHUNK=chunk, TAIL=tail)

    with sizes:
        found = list(pieces(text, separator))  # a text is an iterable of its characters

    assert found == cut_whole(text, separator)


@pytest.mark.parametrize("source", SEPARATORS[:6])
def test_a_piece_comes_once_nothing_can_change_it(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a text without end, in which each of them cuts."""
    monkeypatch.setattr(separators, "CHUNK", 1)

    def endless() -> Iterator[str]:
        for number in range(10**9):
            assert number < 9, "as good as all is read before anything is given"
            yield "ab\n\n = b =\na\nbb\nc"

    found = pieces(endless(), re.compile(source))

    assert len([next(found) for _ in range(2)]) == 2


@pytest.mark.parametrize("source", ["(ab)+", r"(a)\1", "(?x) a", "(?P<n>a)", "x{", "a{1000000}"])
def test_what_is_not_understood_is_held_whole(source: str) -> None:
    assert reach_of(re.compile(source)) is None
