"""Find where training was unstable: jumps of the loss or of the gradient norm, seeds apart.

A value is compared with the median of the steps around it, so that a curve that falls is none, and
with the scatter of all such residuals in its run (by their 90 % quantile, which jumps in fewer than
one step of ten do not move), so that a run whose batches differ is none either: a median would
take every batch of a hard domain for a jump where such batches are few. Both rules ask for a size
as well, since a run with next to no scatter has residuals of many times next to nothing. A seed is
an outlier by Grubbs' test. Nothing is left out of the numbers for any of this: it is said.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from reports import measures
from reports.load import Evidence

WINDOW = 21  # steps; a jump of up to 10 of them leaves the median where it was
SCATTER = 8.0  # of a normal variable, 8 sd are never seen in 10^12 steps
_USUAL, _NORMAL = 0.9, 1.645  # share of a normal variable within so many sd
LOSS_RISE = 0.1  # of the loss around it
NORM_RISE = 3.0  # times the norm around it
GRUBBS_LEVEL = 0.01  # of any false outlier in a report, divided among the arms


class Jump(NamedTuple):
    """A run whose loss or gradient norm jumped."""

    arm: str
    seed: int
    what: str
    """training loss, or gradient norm."""
    step: int
    """Of the highest jump."""
    value: float
    around: float
    """The median of the steps around it."""
    num_steps: int
    """Steps that stand out."""


class Apart(NamedTuple):
    """A seed at which an arm's final loss lies apart from what it does at the others."""

    arm: str
    seed: int
    by: float
    """Bits per byte beyond the arm's mean, after the level of the seed is taken off."""


def stands_out(values: np.ndarray, rise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which values [n] stand out above those around them, and the medians around them [n].

    `rise` is the least difference. The first half window is left out: a curve that falls steeply
    from its start lies above the median of what follows it.
    """
    around = ndimage.median_filter(values, size=WINDOW, mode="reflect")
    if len(values) < 2 * WINDOW:  # too short to tell a jump from scatter
        return np.zeros(len(values), dtype=bool), around
    residual = values - around
    scatter = float(np.quantile(np.abs(residual[WINDOW // 2 :]), _USUAL)) / _NORMAL
    found = residual > np.maximum(SCATTER * scatter, rise * np.ones(len(values)))
    found[: WINDOW // 2] = False
    return found, around


def jumps(evidence: Evidence) -> list[Jump]:
    """Return the finished main runs that were unstable, in the order of arms and seeds."""
    table = evidence.steps
    codes = table["run_id"].cat.codes.to_numpy()
    starts = np.searchsorted(codes, np.arange(len(table["run_id"].cat.categories) + 1))
    place = {run_id: k for k, run_id in enumerate(table["run_id"].cat.categories)}
    steps, losses = table["step"].to_numpy(), table["loss"].to_numpy()
    norms = np.log(np.maximum(table["grad_norm"].to_numpy(), 1e-30))
    found = []
    for run in measures.main_runs(evidence).itertuples():
        rows = slice(starts[place[run.run_id]], starts[place[run.run_id] + 1])
        who = (str(run.arm), int(run.seed))
        loss, norm = losses[rows], norms[rows]
        level = float(np.median(np.abs(loss))) if len(loss) else 0.0
        found += _jump(who, "training loss", steps[rows], loss, LOSS_RISE * level)
        found += _jump(who, "gradient norm", steps[rows], norm, math.log(NORM_RISE))
    return found


def _jump(
    who: tuple[str, int], what: str, steps: np.ndarray, values: np.ndarray, rise: float
) -> list[Jump]:
    found, around = stands_out(values, rise)
    if not found.any():
        return []
    highest = int(np.argmax(np.where(found, values - around, -math.inf)))
    shown = (float(values[highest]), float(around[highest]))
    if what == "gradient norm":
        shown = (math.exp(shown[0]), math.exp(shown[1]))
    return [Jump(*who, what, int(steps[highest]), *shown, int(found.sum()))]


def seeds_apart(evidence: Evidence) -> list[Apart]:
    """Return the seeds at which an arm's final primary metric is an outlier.

    The level of a seed is the median over arms, so three arms are needed to say whose it is.
    """
    table = measures.metrics(evidence)
    wide = table.pivot(index="seed", columns="arm", values=evidence.header["primary"])
    if wide.shape[1] < 3:
        return []
    own = wide.sub(wide.median(axis=1), axis=0)
    found = []
    for arm in own:
        values = own[arm].dropna()
        spread = float(values.std())
        if len(values) < 3 or not spread > 0:
            continue
        offsets = values - values.mean()
        seed = offsets.abs().idxmax()
        if abs(offsets[seed]) / spread > grubbs(len(values), GRUBBS_LEVEL / wide.shape[1]):
            found.append(Apart(str(arm), int(str(seed)), float(offsets[seed])))
    return found


def grubbs(size: int, level: float) -> float:
    """Return Grubbs' (1950) two-sided limit for the largest of `size` offsets, in their sd."""
    t = float(special.stdtrit(size - 2, 1 - level / (2 * size)))
    return (size - 1) / math.sqrt(size) * math.sqrt(t**2 / (size - 2 + t**2))
