"""What curves say: swings told apart from the noise of batches, and overfitting from its lack."""

from __future__ import annotations

import numpy as np
import pytest

from reports.attribution.learning import SWINGS, oscillation, overfitting

RATES = [3e-4]


def falling(steps: int, seed: int, noise: float = 0.2) -> np.ndarray:
    """Return a loss that falls smoothly, with independent noise of batches on top."""
    place = np.arange(steps) / steps
    loss: np.ndarray = (
        2 + 2 * np.exp(-6 * place) + np.random.default_rng(seed).normal(0, noise, steps)
    )
    return loss


def test_noise_of_batches_is_no_oscillation() -> None:
    """A thousand quiet curves: the docstring's rate of false alarms."""
    swings = [
        oscillation(falling(400, seed).tolist(), RATES).values["swing"] for seed in range(1000)
    ]

    assert np.mean(swings) == pytest.approx(1.0, abs=0.1)
    assert np.mean(np.array(swings) > SWINGS) < 0.002


def test_a_swinging_loss_is_called_one() -> None:
    """A slow wave as high as the noise of a single step."""
    wave = 0.2 * np.sin(np.arange(400) / 400 * 2 * np.pi * 8)

    reading = oscillation((falling(400, 0) + wave).tolist(), RATES)

    assert reading.values["swing"] > SWINGS
    assert "the training loss swings" in reading.text
    assert "below 0.0003" in reading.text


def test_a_short_run_says_that_it_is_too_short() -> None:
    reading = oscillation([2.0, 1.9, 1.8], RATES)

    assert not reading.values
    assert "too few" in reading.text


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({0: 4.0, 50: 2.0, 100: 2.5}, "risen by 0.500 nats since step 50"),
        ({0: 4.0, 50: 2.0, 100: 1.9}, "none seen, validation is lowest at the end"),
        ({0: 4.0, 50: 2.0, 100: 2.01}, "flat since step 50"),
        ({0: 2.0, 50: 2.5, 100: 3.0}, "worse from the start"),
        ({100: 3.0}, "nothing to tell"),
    ],
)
def test_overfitting_is_told_from_validation(validation: dict[int, float], told: str) -> None:
    reading = overfitting(validation, [1.5] * 100)

    assert told in reading.text
    if len(validation) > 1:
        assert reading.values["gap"] == pytest.approx(validation[100] - 1.5)
