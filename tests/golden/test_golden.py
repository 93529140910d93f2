"""Fifty steps of every method give what they gave: exactly, or nearly on another processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.golden.refresh import difference
from tests.golden.traces import provenance, saved, trace
from tests.methods import TINY


@pytest.mark.parametrize("name", TINY)
def test_a_trace_is_what_it_was(name: str) -> None:
    """A change that is meant is refreshed by `python -m tests.golden.refresh`, which prints it."""
    torch.set_num_threads(1)
    content = saved()
    old, new = content["methods"][name], trace(name)

    if content["provenance"] == provenance():
        assert difference(old, new) == "equal"
    assert new["runs"] == old["runs"]
    for key in ("losses", "weights"):
        close = torch.allclose(torch.tensor(new[key]), torch.tensor(old[key]), rtol=1e-3, atol=1e-4)
        assert close, difference(old, new)


def test_every_method_has_a_trace() -> None:
    """A new method gets one by refreshing."""
    assert saved()["methods"].keys() == TINY.keys()


def test_a_difference_is_told() -> None:
    """Where, and by how much."""
    old: dict[str, Any] = {"runs": 1, "losses": [1.0, 2.0], "weights": [[0.5, 0.5], [0.5, 0.5]]}
    new = {**old, "runs": 2, "losses": [1.0, 2.5]}

    assert difference(old, old) == "equal"
    assert difference(None, new) == "new"
    told = "1 runs before, 2 now; losses differ by up to 5.00e-01, first at step 10"
    assert difference(old, new) == told
