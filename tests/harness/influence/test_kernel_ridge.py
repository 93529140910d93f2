"""Kernel ridge regression against scikit-learn, at its limits, and on bad input."""

from __future__ import annotations

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Sklearn
from torch import Tensor

from harness.influence import kernel_ridge
from harness.influence.kernel_ridge import BANDWIDTH_SAMPLE, fit


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return float64 normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def median_distance(points: Tensor) -> float:
    """Return the median over pairs, one by one."""
    pairs = [(points[i] - points[j]).norm() for i in range(len(points)) for j in range(i)]
    return float(torch.stack(pairs).median())


@pytest.mark.parametrize("queries", [None, 1, 7])
@pytest.mark.parametrize("damping", [1e-2, 1.0])
def test_predictions_are_those_of_scikit_learn(queries: int | None, damping: float) -> None:
    landmarks, rows = normal(60, 8) + 3, normal(150, 8, seed=1) + 3
    targets = normal(60, seed=2) if queries is None else normal(60, queries, seed=2)

    ridge = fit(landmarks, damping)
    predicted = ridge.predict(rows, ridge.coefficients(targets), chunk=64)

    gamma = 1 / (2 * median_distance(landmarks) ** 2)
    oracle = Sklearn(alpha=damping, kernel="rbf", gamma=gamma).fit(landmarks, targets)
    expected = torch.as_tensor(oracle.predict(rows.numpy()))
    torch.testing.assert_close(predicted, expected, rtol=1e-6, atol=1e-6)


def test_it_interpolates_as_the_damping_goes() -> None:
    landmarks, targets = normal(40, 30), normal(40, 3, seed=1)
    errors = []
    for damping in (1e-1, 1e-3, 1e-6, 0.0):
        ridge = fit(landmarks, damping)
        predicted = ridge.predict(landmarks, ridge.coefficients(targets))
        errors.append(float((predicted - targets).abs().max()))

    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.05
    assert errors[-1] < 1e-8


def test_far_away_nothing_is_known() -> None:
    ridge = fit(normal(20, 4))

    far = ridge.predict(normal(3, 4) + 1e4, ridge.coefficients(normal(20)))

    assert torch.equal(far, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_embeddings_give_the_mean(value: float, dtype: torch.dtype) -> None:
    same = torch.full((50, 7), value, dtype=dtype)
    targets = normal(50, 2) + 1

    ridge = fit(same)
    predicted = ridge.predict(same[:4], ridge.coefficients(targets))

    # The ridge shrinks the sum over 50 to a sum over 50.01.
    torch.testing.assert_close(predicted, (targets.sum(0) / 50.01).expand(4, 2))


def test_one_landmark_is_enough() -> None:
    ridge = fit(torch.ones(1, 3))

    assert float(ridge.predict(torch.ones(2, 3), ridge.coefficients(torch.tensor([5.0])))[1]) == (
        pytest.approx(5 / 1.01)
    )


def test_copies_do_not_make_the_bandwidth_zero() -> None:
    landmarks = torch.cat([torch.ones(30, 4), normal(5, 4).float()])

    ridge = fit(landmarks)

    assert ridge.bandwidth > 0.1
    assert ridge.predict(landmarks, ridge.coefficients(normal(35))).isfinite().all()


def test_the_order_of_rows_landmarks_and_queries_is_of_no_account() -> None:
    landmarks, rows, targets = normal(50, 6), normal(80, 6, seed=1), normal(50, 5, seed=2)
    ridge = fit(landmarks)
    predicted = ridge.predict(rows, ridge.coefficients(targets))
    by_row, by_landmark, by_query = (torch.randperm(n) for n in (80, 50, 5))

    again = fit(landmarks[by_landmark])
    coefficients = again.coefficients(targets[by_landmark][:, by_query])

    expected = predicted[by_row][:, by_query]
    torch.testing.assert_close(again.predict(rows[by_row], coefficients), expected)


def test_neither_the_chunk_nor_the_number_of_queries_changes_a_score() -> None:
    ridge, rows, targets = fit(normal(50, 6)), normal(90, 6, seed=1), normal(50, 4, seed=2)
    whole = ridge.predict(rows, ridge.coefficients(targets))

    torch.testing.assert_close(ridge.predict(rows, ridge.coefficients(targets), chunk=7), whole)
    one = ridge.predict(rows, ridge.coefficients(targets[:, 2]))
    torch.testing.assert_close(one, whole[:, 2])
    assert one.shape == (90,)


def test_a_distant_origin_costs_no_digits() -> None:
    landmarks, rows, targets = normal(30, 4), normal(10, 4, seed=1), normal(30, seed=2)
    near, far = fit(landmarks), fit(landmarks + 1e5)

    predicted = far.predict(rows + 1e5, far.coefficients(targets))

    # adding 1e5 rounds to 1e-11; without centering, the squares would lose 1e-6
    expected = near.predict(rows, near.coefficients(targets))
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-8)


def test_many_landmarks_share_a_sampled_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks = normal(400, 5)
    exact = fit(landmarks).bandwidth
    monkeypatch.setattr(kernel_ridge, "BANDWIDTH_SAMPLE", 100)

    sampled = fit(landmarks).bandwidth

    assert BANDWIDTH_SAMPLE == 1000
    assert sampled == fit(landmarks).bandwidth != fit(landmarks, seed=1).bandwidth
    assert 0.9 < sampled / exact < 1.1
    assert sampled != exact


def test_what_is_not_finite_is_named() -> None:
    bad = normal(12, 3)
    bad[7, 1] = float("nan")
    ridge = fit(normal(12, 3))

    with pytest.raises(FloatingPointError, match="embedding of landmark 7 "):
        fit(bad)
    with pytest.raises(FloatingPointError, match="score of landmark 7 "):
        ridge.coefficients(bad)
    with pytest.raises(FloatingPointError, match="embedding of row 7 "):
        ridge.predict(bad, ridge.coefficients(normal(12)))


def test_bad_input_is_named() -> None:
    ridge = fit(normal(12, 3))
    with pytest.raises(ValueError, match="5 scores for 12 landmarks"):
        ridge.coefficients(normal(5))
    with pytest.raises(ValueError, match="has 4 numbers, a landmark's 3"):
        ridge.predict(normal(2, 4), ridge.coefficients(normal(12)))
    with pytest.raises(ValueError, match="damping is -1"):
        fit(normal(12, 3), damping=-1)
    with pytest.raises(ValueError, match="at least one landmark"):
        fit(normal(0, 3))
    with pytest.raises(ValueError, match=r"not floats \[rows, size\]"):
        fit(normal(3))
    with pytest.raises(ValueError, match="singular at damping 0: landmark 1 is too close"):
        fit(torch.ones(4, 2), damping=0.0)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_linear_kernel_is_scikit_learns_and_not_centered(absolute: bool) -> None:
    landmarks, rows = normal(16, 8) + 3, normal(50, 8, seed=1) + 3
    targets = normal(16, 2, seed=2)

    ridge = fit(landmarks, 1e-4, kernel="linear", ridge="absolute" if absolute else "relative")
    predicted = ridge.predict(rows, ridge.coefficients(targets), chunk=7)

    size = 1.0 if absolute else float(landmarks.square().sum(1).mean())
    oracle = Sklearn(alpha=1e-4 * size, kernel="linear").fit(landmarks, targets)
    expected = torch.as_tensor(oracle.predict(rows.numpy()))
    torch.testing.assert_close(predicted, expected, rtol=1e-6, atol=1e-6)
