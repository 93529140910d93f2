"""The plan on paper is arithmetic: known sizes come out, and every part prints."""

from __future__ import annotations

import pytest

from tests.bench.internet_scale import PARTS, Assumed, main


def test_a_model_of_llamas_shape_has_its_parameters() -> None:
    """6,738,415,616, as LLaMA 7B's card and its checkpoint have it."""
    assert Assumed().parameters == 6_738_415_616


def test_every_part_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()

    told = capsys.readouterr().out
    assert all(f"\n{title}\n" in told for title in PARTS)
    assert "nan" not in told
