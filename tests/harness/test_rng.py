"""Randomness has a name and a step."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.rng import generator, key

parts = st.lists(st.integers(-5, 5) | st.text("ab", min_size=1, max_size=3), max_size=3)


def test_a_key_is_the_same_on_every_machine() -> None:
    """Written down: a change of these numbers changes every run there is."""
    assert key(0) == 4761921975702974394
    assert key(0, "draw", 1) == 9210630851206611937


@given(parts, parts, st.integers(0, 3), st.integers(0, 3))
def test_every_part_of_a_name_counts(
    one: list[str | int], two: list[str | int], seed: int, other: int
) -> None:
    """Different seeds or names give different keys of 63 bits; equal ones, equal keys."""
    same = (seed, *map(str, one)) == (other, *map(str, two))

    assert (key(seed, *one) == key(other, *two)) is same
    assert 0 <= key(seed, *one) < 2**63


def test_a_generator_is_keyed_and_leaves_the_global_one_alone() -> None:
    """Asking twice gives the same numbers, another step gives others."""
    before = torch.get_rng_state()
    one, again, next_step = (
        torch.rand(4, generator=generator(3, "draw", step)) for step in (7, 7, 8)
    )

    assert torch.equal(one, again)
    assert not torch.equal(one, next_step)
    assert torch.equal(torch.get_rng_state(), before)
