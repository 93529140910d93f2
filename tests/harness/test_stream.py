"""Which rows a run sees is arithmetic: on weights, rows seen so far, data seed and step."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Tensor

from harness.api import Batch
from harness.stream import Shelf, Stream

TOKENS = 4
DOMAINS = ("a", "b", "c")
SIZES = {"a": 7, "b": 11, "c": 5}  # train rows


def shelf(sizes: dict[str, int], start: int, leftover: int = 2) -> Shelf:
    """Return rows whose tokens count upward from `start`, so that each token tells its place."""
    streams = {}
    for name, size in sizes.items():
        count = size * TOKENS + 1 + leftover
        streams[name] = np.arange(start, start + count)
        start += 10_000
    return Shelf(streams, TOKENS)


def stream(data_seed: int = 0) -> Stream:
    """Return a stream of three trained domains and one that only has probe rows."""
    train = shelf(SIZES, 0)
    probe = shelf({"a": 6, "b": 4, "c": 3, "d": 5}, 500_000)
    return Stream(train, probe, DOMAINS, (*DOMAINS, "d"), data_seed, "cpu")


def mixture(*weights: float) -> Tensor:
    """Return weights as the loop gives them."""
    w = torch.tensor(weights, dtype=torch.float64)
    return w / w.sum()


def drawn(
    source: Stream, weights: Tensor, steps: int, rows: int, seen: Tensor | None = None
) -> list[tuple[int, int]]:
    """Return the (domain, row) of every slot over some steps."""
    seen = torch.zeros(len(weights), dtype=torch.int64) if seen is None else seen
    pairs = []
    for step in range(steps):
        batch = source.draw(weights, seen, step, rows)
        pairs += list(zip(batch.domains.tolist(), batch.rows.tolist(), strict=True))
    return pairs


def of_domain(pairs: list[tuple[int, int]], domain: int) -> list[int]:
    """Return the rows of one domain in the order in which they were drawn."""
    return [row for k, row in pairs if k == domain]


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.7, 0.2, 0.1), (0.98, 0.01, 0.01)])
def test_counts_are_binomial(weights: tuple[float, ...]) -> None:
    """Over 6,400 draws each domain's count lies in its 99.99 % interval."""
    target = mixture(*weights)

    pairs = drawn(stream(), target, steps=400, rows=16)

    for k, weight in enumerate(target.tolist()):
        low, high = binom.interval(0.9999, len(pairs), weight)
        assert low <= len(of_domain(pairs, k)) <= high


def test_every_row_comes_once_before_any_comes_twice() -> None:
    """Each pass over a domain is a permutation of its rows, and passes differ in order."""
    pairs = drawn(stream(), mixture(1, 1, 1), steps=40, rows=6)

    for k, name in enumerate(DOMAINS):
        rows, size = of_domain(pairs, k), SIZES[name]
        passes = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        assert len(passes) >= 3
        assert all(sorted(order) == list(range(size)) for order in passes)
        assert len(set(map(tuple, passes))) == len(passes)


def test_a_stream_that_starts_late_goes_on_as_if_it_had_been_there() -> None:
    """`seen` is all that a resumed run needs, also across the border of a pass."""
    weights, half = mixture(3, 2, 1), 13
    whole = drawn(stream(), weights, steps=2 * half, rows=4)
    seen = torch.zeros(3, dtype=torch.int64)
    drawn(stream(), weights, half, 4, seen)

    fresh = stream()
    late = [fresh.draw(weights, seen, step, 4) for step in range(half, 2 * half)]

    pairs = [p for b in late for p in zip(b.domains.tolist(), b.rows.tolist(), strict=True)]
    assert pairs == whole[half * 4 :]
    assert int(seen.sum()) == 2 * half * 4
    assert max(int(n) / SIZES[d] for n, d in zip(seen, DOMAINS, strict=True)) > 2


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(any), min_size=6, max_size=6)
)
def test_the_ith_row_of_a_domain_never_depends_on_the_weights(history: list[list[float]]) -> None:
    """Two arms of one seed read each domain in one order, whatever they weigh."""
    uniform = drawn(stream(), mixture(1, 1, 1), steps=60, rows=8)
    seen, source = torch.zeros(3, dtype=torch.int64), stream()

    pairs: list[tuple[int, int]] = []
    for step, weights in enumerate(history):
        batch = source.draw(mixture(*weights), seen, step, 8)
        pairs += zip(batch.domains.tolist(), batch.rows.tolist(), strict=True)

    for k in range(3):
        rows = of_domain(pairs, k)
        assert rows == of_domain(uniform, k)[: len(rows)]
        assert int(seen[k]) == len(rows)


def test_equal_weights_draw_equal_rows_in_any_two_arms() -> None:
    """Two streams with one data seed give equal batches, tokens and all."""
    one, two = stream(), stream()
    seen = [torch.zeros(3, dtype=torch.int64) for _ in range(2)]
    for step in range(20):
        weights = mixture(1, 2, 1 + step)
        a = one.draw(weights, seen[0], step, 5)
        b = two.draw(weights * 3, seen[1], step, 5)  # only proportions matter
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch))


def test_the_data_seed_changes_domains_and_order() -> None:
    """An A/A arm with another data seed sees another sequence, of the same rows."""
    one, two = (drawn(stream(seed), mixture(1, 1, 1), 40, 6) for seed in (0, 1))

    assert [k for k, _ in one] != [k for k, _ in two]
    for k, name in enumerate(DOMAINS):
        first, second = (of_domain(pairs, k)[: SIZES[name]] for pairs in (one, two))
        assert first != second
        assert sorted(first) == sorted(second)


@pytest.mark.parametrize("zero", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 1, 0)])
def test_a_domain_of_weight_zero_is_never_drawn(zero: tuple[float, ...]) -> None:
    """Not first, not last, not between."""
    pairs = drawn(stream(), mixture(*zero), steps=300, rows=8)

    assert {k for k, _ in pairs} == {k for k, weight in enumerate(zero) if weight}


@pytest.mark.parametrize(("uniform", "domain"), [(0.0, 1), (0.5, 2), (1 - 2**-53, 2)])
def test_the_borders_of_the_inverse_cdf(
    monkeypatch: pytest.MonkeyPatch, uniform: float, domain: int
) -> None:
    """Intervals are closed on the left: weights (0, .5, .5), and the ends of [0, 1)."""
    monkeypatch.setattr(
        torch, "rand", lambda n, **_: torch.full((n,), uniform, dtype=torch.float64)
    )

    assert drawn(stream(), mixture(0, 1, 1), 1, 1)[0][0] == domain


def test_a_row_is_the_tokens_that_its_index_names() -> None:
    """Targets are inputs shifted by one; row i of a domain starts at token i * T."""
    batch = stream().draw(mixture(1, 1, 1), torch.zeros(3, dtype=torch.int64), 0, 9)

    start = batch.domains * 10_000 + batch.rows * TOKENS
    assert torch.equal(batch.inputs, start[:, None] + torch.arange(TOKENS))
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.mask.dtype == torch.bool
    assert bool(batch.mask.all())


def test_every_token_but_the_first_is_a_target_once() -> None:
    """Rows overlap by one token and leave only an incomplete last row out."""
    rows = shelf({"a": 5}, 0, leftover=TOKENS - 1)
    picks = [("a", row) for row in range(rows.num_rows("a"))]

    targets = rows.batch(picks, ("a",), "cpu").targets.flatten()

    assert targets.tolist() == list(range(1, 5 * TOKENS + 1))


@pytest.mark.parametrize(
    ("tokens_there", "rows"),
    [(0, 0), (1, 0), (TOKENS, 0), (TOKENS + 1, 1), (2 * TOKENS, 1), (2 * TOKENS + 1, 2)],
)
def test_only_whole_rows_count(tokens_there: int, rows: int) -> None:
    """A row needs T + 1 tokens, of which one may be shared with the next."""
    assert Shelf({"a": np.arange(tokens_there)}, TOKENS).num_rows("a") == rows


def test_candidates_are_train_rows_of_every_trained_domain() -> None:
    """In the order of the domains, each row once; a domain with fewer gives all it has."""
    batch = stream().candidates(6, step=3)

    assert torch.bincount(batch.domains).tolist() == [6, 6, 5]
    assert batch.domains.tolist() == sorted(batch.domains.tolist())
    assert len(set(zip(batch.domains.tolist(), batch.rows.tolist(), strict=True))) == 17
    assert bool((batch.inputs < 500_000).all())


def test_probes_are_probe_rows_of_every_probe_domain() -> None:
    """Also of those that are never trained on; no train row is among them."""
    batch = stream().probes(4, step=3)

    assert torch.bincount(batch.domains).tolist() == [4, 4, 3, 4]
    assert bool((batch.inputs >= 500_000).all())
    start = 500_000 + batch.domains * 10_000 + batch.rows * TOKENS
    assert torch.equal(batch.inputs[:, 0], start)


def test_looks_at_rows_are_keyed_by_step_and_data_seed() -> None:
    """Asking twice gives the same rows; another step or data seed, others; fixed is fixed."""
    source = stream()

    assert torch.equal(source.candidates(3, 1).rows, source.candidates(3, 1).rows)
    assert not torch.equal(source.candidates(3, 1).rows, source.candidates(3, 2).rows)
    assert not torch.equal(source.candidates(3, 1).rows, stream(1).candidates(3, 1).rows)
    assert torch.equal(source.probes(3, 1).rows, source.probes(3, 1).rows)
    assert not torch.equal(source.probes(3, 1).rows, source.probes(3, 2).rows)
    assert torch.equal(source.probes(3, None).rows, source.probes(3, None).rows)
    assert not torch.equal(source.probes(3, None).rows, stream(1).probes(3, None).rows)


def test_domains_of_equal_size_have_orders_of_their_own() -> None:
    """Keys hold the domain's name: what is drawn from one says nothing of another."""
    sizes = {"a": 9, "b": 9}
    source = Stream(shelf(sizes, 0), shelf(sizes, 500_000), ("a", "b"), ("a", "b"), 0, "cpu")

    pairs = drawn(source, mixture(1, 1), steps=8, rows=4)

    assert of_domain(pairs, 0)[:9] != of_domain(pairs, 1)[:9]
    for batch in (source.candidates(9, 0), source.probes(9, 0), source.probes(9, None)):
        assert batch.rows[:9].tolist() != batch.rows[9:].tolist()


def test_looking_at_rows_changes_nothing_that_is_trained_on() -> None:
    """Candidates and probes are off the stream: the next draws are the same."""
    plain = drawn(stream(), mixture(1, 1, 1), 5, 6)
    seen, source = torch.zeros(3, dtype=torch.int64), stream()

    pairs = []
    for step in range(5):
        source.candidates(4, step)
        source.probes(4, step)
        batch = source.draw(mixture(1, 1, 1), seen, step, 6)
        pairs += list(zip(batch.domains.tolist(), batch.rows.tolist(), strict=True))

    assert pairs == plain


def test_select_takes_the_same_rows_of_every_field() -> None:
    """A slice, a list of indices and a mask all work, and the batch itself stays."""
    batch = stream().candidates(3, 0)
    for index in (slice(2, 5), torch.tensor([4, 0, 4]), batch.domains == 1):
        part = batch.select(index)
        for f in fields(Batch):
            assert torch.equal(getattr(part, f.name), getattr(batch, f.name)[index])

    assert len(batch.rows) == 9
    assert torch.equal(batch.rows, stream().candidates(3, 0).rows)


def test_drawing_leaves_the_global_generator_alone() -> None:
    """Randomness comes from keys, so nothing else in the process is shifted."""
    before = torch.get_rng_state()
    source = stream()
    source.draw(mixture(1, 1, 1), torch.zeros(3, dtype=torch.int64), 0, 4)
    source.candidates(2, 0)

    assert torch.equal(torch.get_rng_state(), before)
