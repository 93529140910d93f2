"""What a fine-tuning's curves say, in numbers and in words: does it swing, does it overfit?

A training loss differs from step to step because every batch is another; that alone is no
oscillation. So steps are averaged over windows, and the windows' spread around their trend is
compared with what the scatter of single steps leaves in a mean of as many:

    swing = sd of window means around their line / (sd of steps around their window / sqrt(window))

which is near 1 for noise of independent batches, and above 2 in fewer than one of a thousand such
curves (tests/reports/attribution/test_learning.py simulates it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOWS = 12  # in the second half of the steps
SWINGS = 2.0
MARGIN = 0.01  # of the lowest validation loss: less than this is called flat


@dataclass(frozen=True)
class Reading:
    """A curve's numbers, and the sentence that they allow."""

    values: dict[str, float]
    text: str


def oscillation(losses: Sequence[float], rates: Sequence[float]) -> Reading:
    """Read the second half of a training loss; `rates` are the learning rates of the steps."""
    half = np.asarray(losses, float)[len(losses) // 2 :]
    size = len(half) // WINDOWS
    if size < 4:
        few = f"{len(losses)} steps are too few to tell swings from the noise of batches"
        return Reading({}, f"Oscillation: {few}; {2 * WINDOWS * 4} would do.")
    windows = half[: size * WINDOWS].reshape(WINDOWS, size)
    noise = float(windows.std(1, ddof=1).mean())
    means, place = windows.mean(1), np.arange(WINDOWS)
    line = np.polyval(np.polyfit(place, means, 1), place)
    spread = float(np.sqrt(((means - line) ** 2).sum() / (WINDOWS - 2)))
    swing = spread / (noise / size**0.5) if noise else 0.0
    values = {"step_sd": noise, "window_sd": spread, "swing": swing, "window_steps": float(size)}
    told = f"means of {size} steps scatter {swing:.1f} times as much as independent batches would"
    if swing > SWINGS:
        fix = f"try a learning rate below {max(rates):.2g}, a longer warm-up, or clipping"
        return Reading(values, f"Oscillation: the training loss swings ({told}); {fix}.")
    rest = f"single steps differ by {noise:.3f} nats, which larger batches would smooth"
    return Reading(values, f"Oscillation: none beyond the noise of batches ({told}); {rest}.")


def overfitting(validation: dict[int, float], losses: Sequence[float]) -> Reading:
    """Compare the last validation loss with the lowest, and with the training loss there."""
    if len(validation) < 2:
        return Reading({}, "Overfitting: the validation rows were looked at once; nothing to tell.")
    best = min(validation, key=lambda step: (validation[step], step))
    last = max(validation)
    tail = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    rise, gap = validation[last] - validation[best], validation[last] - tail
    values = {"best_step": float(best), "rise": rise, "gap": gap, "training_loss": tail}
    ends = f"validation ends {gap:+.3f} nats from the training loss ({tail:.3f})"
    if best == 0:
        return Reading(
            values, f"Overfitting: training has made validation worse from the start; {ends}."
        )
    if rise > MARGIN * validation[best]:
        since = f"validation has risen by {rise:.3f} nats since step {best}"
        return Reading(values, f"Overfitting: {since}; {ends}. Stop there, or give it more text.")
    if best == last:
        return Reading(values, f"Overfitting: none seen, validation is lowest at the end; {ends}.")
    flat = f"validation is flat since step {best} (+{rise:.3f} nats)"
    return Reading(values, f"Overfitting: none to speak of, {flat}; {ends}.")


def summary(header: dict[str, Any], validation: dict[int, float]) -> dict[str, float]:
    """Return the numbers that stand on top of the page."""
    cost = header["costs"]["train"]
    rows = header["num_steps"] * header["spec"]["batch"]["rows"]
    found = {"steps": header["num_steps"], "rows": rows, "seconds": cost["seconds"]}
    found["rows_per_second"] = rows / cost["seconds"] if cost["seconds"] else float("nan")
    found["peak_bytes"] = max(account["peak_bytes"] for account in header["costs"].values())
    found["parameters"] = header["num_parameters"]
    return found
