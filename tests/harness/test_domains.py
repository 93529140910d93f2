"""The arithmetic that all mixers share: simplex, means over domains, bounds, projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from harness.domains import (
    bounded,
    domain_mean,
    min_shifted,
    projected,
    simplex,
    standardized,
    uniform,
)


def vector(values: list[float]) -> Tensor:
    """Return float64 values; torch.tensor alone would round them to float32."""
    return torch.tensor(values, dtype=torch.float64)


positive = st.floats(1e-9, 1e9)
weights = st.lists(positive, min_size=1, max_size=8).map(vector)
points = st.lists(st.floats(-5, 5), min_size=1, max_size=6).map(vector)


@st.composite
def bounds(draw: st.DrawFn, num_domains: int) -> tuple[float, float]:
    """Return a floor and a cap between which there are mixtures."""
    floor = draw(st.floats(0, 1)) / num_domains * 0.999
    cap = min(1.0, (1 + draw(st.floats(0.001, 8))) / num_domains)
    return floor, cap


@st.composite
def bounded_cases(draw: st.DrawFn) -> tuple[Tensor, float, float]:
    """Return weights (some zero), a floor and a cap."""
    w = draw(st.lists(st.just(0.0) | positive, min_size=1, max_size=8).filter(any))
    return (vector(w), *draw(bounds(len(w))))


@st.composite
def projected_cases(draw: st.DrawFn) -> tuple[Tensor, float, float]:
    """Return a point, a floor and a cap."""
    point = draw(points)
    return (point, *draw(bounds(len(point))))


@given(weights)
def test_simplex_scales_to_one_and_keeps_ratios(w: Tensor) -> None:
    """Only proportions matter to a mixture."""
    result = simplex(w, tuple(map(str, range(len(w)))), "here")

    assert float(result.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(result * w.sum(), w, rtol=1e-12, atol=0)
    assert result.dtype == torch.float64


@pytest.mark.parametrize(
    ("given_weights", "says"),
    [
        ([1.0, float("nan"), 1.0], "the weight of domain 'b' is nan"),
        ([1.0, 1.0, float("inf")], "the weight of domain 'c' is inf"),
        ([-0.5, 1.0, 1.0], "the weight of domain 'a' is -0.5"),
        ([0.0, 0.0, 0.0], "all weights are zero"),
        ([1.0, 1.0], r"expected 3 weights, got \(2,\)"),
        ([[1.0, 1.0, 1.0]], r"expected 3 weights, got \(1, 3\)"),
    ],
)
def test_simplex_names_the_place_and_the_domain(given_weights: list[float], says: str) -> None:
    """Weights that are no mixture stop the run, and the message tells which."""
    with pytest.raises(ValueError, match=f"^step 3: {says}$"):
        simplex(vector(given_weights), ("a", "b", "c"), "step 3")


@given(bounded_cases())
def test_bounded_lies_on_the_simplex_between_its_bounds(case: tuple[Tensor, float, float]) -> None:
    """Whatever the weights, the result is a mixture with floor <= w <= cap."""
    w, floor, cap = case

    result = bounded(w, floor, cap)

    assert float(result.sum()) == pytest.approx(1, abs=1e-9)
    assert float(result.min()) >= floor
    assert float(result.max()) <= cap


@given(bounded_cases())
def test_bounded_keeps_ratios_between_the_bounds(case: tuple[Tensor, float, float]) -> None:
    """A floor on one domain is paid by all others in proportion, and order is kept."""
    w, floor, cap = case

    result = bounded(w, floor, cap)

    free = (result > floor * (1 + 1e-9)) & (result < cap * (1 - 1e-9)) & (w > 1e-9 * w.max())
    if free.any():
        ratios = result[free] / w[free]
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-9, atol=0)
    by_weight = result[w.argsort(stable=True)]
    assert bool((by_weight.diff() >= -1e-12).all())


@given(bounded_cases(), st.randoms(use_true_random=False))
def test_bounded_knows_no_domain_by_its_place(
    case: tuple[Tensor, float, float], random: object
) -> None:
    """Permuting the domains permutes the result."""
    w, floor, cap = case
    order = torch.tensor(sorted(range(len(w)), key=lambda _: random.random()))  # type: ignore[attr-defined]

    permuted = bounded(w[order], floor, cap)

    torch.testing.assert_close(permuted, bounded(w, floor, cap)[order], rtol=1e-9, atol=1e-12)


@given(weights)
def test_bounded_leaves_a_mixture_alone_that_is_inside(w: Tensor) -> None:
    """No bisection touches the bits of weights that need none."""
    inside = w / w.sum()

    assert torch.equal(bounded(inside, 0.0, 1.0), inside / inside.sum())


def test_bounded_by_hand() -> None:
    """0.7, 0.2, 0.1, 0 with floor 0.1 and cap 0.5: the cap's excess goes to those between."""
    result = bounded(vector([0.7, 0.2, 0.05, 0.0]), 0.1, 0.5)

    torch.testing.assert_close(result, vector([0.5, 0.3, 0.1, 0.1]))


@pytest.mark.parametrize("function", [bounded, projected])
@pytest.mark.parametrize(("floor", "cap"), [(0.4, 1.0), (0.0, 0.3)])
def test_bounds_without_a_mixture_are_refused(function: object, floor: float, cap: float) -> None:
    """Three domains can be neither all above 0.4 nor all below 0.3."""
    with pytest.raises(ValueError, match="no mixture of 3 domains"):
        function(uniform(3), floor, cap)  # type: ignore[operator]


@given(projected_cases())
def test_projected_meets_the_conditions_of_an_optimum(case: tuple[Tensor, float, float]) -> None:
    """There is a tau with w = clamp(point - tau): the Karush-Kuhn-Tucker conditions."""
    point, floor, cap = case

    w = projected(point, floor, cap)

    assert float(w.sum()) == pytest.approx(1, abs=1e-9)
    assert float(w.min()) >= floor
    assert float(w.max()) <= cap
    tau = point - w
    free = (w > floor) & (w < cap)
    if free.any():
        level = tau[free].mean()
        assert float((tau[free] - level).abs().max()) < 1e-9
        assert bool((tau[w == floor] <= level + 1e-9).all())
        assert bool((tau[w == cap] >= level - 1e-9).all())


@given(point=st.lists(st.floats(-2, 2), min_size=2, max_size=3), data=st.data())
def test_projected_is_the_nearest_mixture(point: list[float], data: st.DataObject) -> None:
    """A general-purpose solver finds nothing nearer, and its answer is the same point."""
    floor, cap = data.draw(bounds(len(point)))
    w = projected(vector(point), floor, cap).numpy()
    middle = np.full(len(point), 1 / len(point))

    found = minimize(
        lambda x: ((x - point) ** 2).sum(),
        middle,
        jac=lambda x: 2 * (x - point),
        bounds=[(floor, cap)] * len(point),
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14},
    )

    assume(found.success)
    np.testing.assert_allclose(w, found.x, atol=1e-5)
    assert ((w - point) ** 2).sum() <= found.fun + 1e-9


@given(weights)
def test_projected_leaves_a_mixture_where_it_is(w: Tensor) -> None:
    """The nearest mixture to a mixture is itself."""
    inside = w / w.sum()

    torch.testing.assert_close(projected(inside), inside, rtol=0, atol=1e-12)


def test_domain_mean_is_over_entries_not_over_rows() -> None:
    """A row with one counted token weighs a third of a row with three."""
    values = torch.tensor([[1.0, 2.0, 3.0], [8.0, 9.0, 9.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    domains = torch.tensor([0, 0, 2])
    empty = torch.tensor([-1.0, -2.0, -3.0])

    means = domain_mean(values, domains, 3, empty, mask)

    assert means.tolist() == [(1 + 2 + 3 + 8) / 4, -2.0, -3.0]
    assert means.dtype == torch.float64


@given(
    domains=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    tokens=st.integers(1, 4),
    data=st.data(),
)
def test_domain_mean_equals_a_plain_loop(
    domains: list[int], tokens: int, data: st.DataObject
) -> None:
    """With any mask and any domain missing."""
    cells = len(domains) * tokens
    number = st.floats(-100, 100, width=32)
    flat = data.draw(st.lists(number, min_size=cells, max_size=cells))
    counted = data.draw(st.lists(st.booleans(), min_size=cells, max_size=cells))
    empty = [10.0, 20.0, 30.0, 40.0]
    values = torch.tensor(flat).reshape(len(domains), tokens)
    mask = torch.tensor(counted).reshape(len(domains), tokens)

    means = domain_mean(values, torch.tensor(domains), 4, torch.tensor(empty), mask)

    for k in range(4):
        here = [
            float(values[b, t])
            for b in range(len(domains))
            for t in range(tokens)
            if domains[b] == k and mask[b, t]
        ]
        assert float(means[k]) == pytest.approx(sum(here) / len(here) if here else empty[k])


def test_domain_mean_of_one_number_a_row() -> None:
    """Rows may have one value each, as influence scores do."""
    means = domain_mean(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([1, 1, 0]), 2, torch.zeros(2))

    assert means.tolist() == [7.0, 2.0]


@given(points.filter(lambda p: float(p.max() - p.min()) > 1e-3))
def test_standardized_has_mean_0_and_spread_1(scores: Tensor) -> None:
    """z-scores: order and ratios of differences stay, the unit goes."""
    z = standardized(scores)

    assert float(z.mean()) == pytest.approx(0, abs=1e-9)
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(standardized(scores * 7 + 3), z, rtol=1e-6, atol=1e-9)


@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_standardized_is_zero_where_scores_do_not_differ(score: float, count: int) -> None:
    """Equal scores favor no domain, whatever rounding does to their mean."""
    z = standardized(torch.full((count,), score, dtype=torch.float64))

    assert z.tolist() == [0.0] * count


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_seeds_rule_turns_noise_into_a_decision(scale: float) -> None:
    """Three domains of pure noise, of any scale: mean sorted weights near (.010, .305, .685)."""
    noise = torch.Generator().manual_seed(0)
    draws = torch.randn(20_000, 3, generator=noise, dtype=torch.float64) * scale
    weights = torch.stack([min_shifted(draw).sort().values for draw in draws])

    assert weights.mean(0).tolist() == pytest.approx([0.010, 0.305, 0.685], abs=2e-3)
    assert weights[:, 0].max() < 0.011  # whatever was drawn: .01 / .92 where the best is cut to .9
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000, dtype=torch.float64))
