"""Normalization: each declared option by hand, nothing by default, and twice is once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.corpus.normalize import normalizer
from harness.spec import Normalization

MESSY = "  Caf\u0065\u0301\u00a0\ufb01x \r\n\tend\x07\x0c \n\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, MESSY),
        ({"unicode": "NFC"}, "  Caf\u00e9\u00a0\ufb01x \r\n\tend\x07\x0c \n\n"),
        ({"unicode": "NFKC"}, "  Caf\u00e9 fix \r\n\tend\x07\x0c \n\n"),
        ({"control": "remove"}, "  Cafe\u0301\u00a0\ufb01x \r\n\tend \n\n"),
        ({"whitespace": "strip"}, "Cafe\u0301\u00a0\ufb01x\nend\x07"),
        ({"whitespace": "collapse"}, "Cafe\u0301 \ufb01x end\x07"),
        ({"case": "lower"}, MESSY.lower()),
        (
            {"unicode": "NFKC", "control": "remove", "whitespace": "collapse", "case": "lower"},
            "caf\u00e9 fix end",
        ),
    ],
)
def test_each_option_does_what_it_says(options: dict[str, Any], expected: str) -> None:
    """Composed letters, ligatures, a bell, a form feed, a no-break space and two kinds of ends."""
    assert normalizer(Normalization(**options))(MESSY) == expected


@given(
    st.text(),
    st.builds(
        Normalization,
        unicode=st.sampled_from(["none", "NFC", "NFKC"]),
        whitespace=st.sampled_from(["keep", "strip", "collapse"]),
        control=st.sampled_from(["keep", "remove"]),
        case=st.sampled_from(["keep", "lower"]),
    ),
)
def test_normalizing_twice_changes_nothing(text: str, how: Normalization) -> None:
    """A corpus made of normalized text is the same corpus."""
    apply = normalizer(how)

    assert apply(apply(text)) == apply(text)
