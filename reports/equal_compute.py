"""Compare each arm with the baseline at equal compute: training, mixer and auxiliary runs together.

Two ways. `runs`: the spec has asked for the baseline once more at each arm's compute, longer by
the steps that the arm's overhead would have bought; the budget is then the arm's. `curve`: without
such runs the arm's own curve is read at the tokens that the baseline's compute would have left it,
auxiliary runs paid first and the mixer as it goes; the budget is then the baseline's.

A point of a curve stands for a run of that length only where the learning rate has not seen the
end coming. That is true of a constant schedule, and of WSD before its decay. There both sides are
read before the decay, at the last evaluation that the baseline has made by then: to set an arm's
undecayed loss against a decayed one would be to the arm's harm, and to give it the decay that it
has not paid for would be to its gain. A cosine falls from the start, so nothing can be read off it.
Between two evaluations the curve is a straight line, which lies above a curve that flattens out:
the error is against the arm. Nothing is read within the warm-up or before the first evaluation.
Operations decide, not seconds, which depend on the machine. All of this is descriptive: the family
that is tested is at equal tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import measures
from reports.along import along
from reports.columns import Json
from reports.load import LONGER, Evidence
from reports.stats import Paired, paired_difference


class AtEqualCompute(NamedTuple):
    """An arm beside the baseline at equal compute."""

    how: str
    """runs, curve, same (the overhead buys no step: the comparison at equal tokens), or ''."""
    paired: Paired | None
    """Differences arm - baseline in the primary metric; None where `how` is ''."""
    said: str
    """What was compared, or why nothing was."""


class _Point(NamedTuple):
    """Where a curve may be read: the baseline's cost by then, in FLOPs, and its loss by seed."""

    step: int
    flops: dict[int, float]
    losses: dict[int, float]


def at_equal_compute(evidence: Evidence) -> dict[str, AtEqualCompute]:
    """Return the comparison of every arm but the baseline, by label."""
    others = [a.label for a in measures.arms(evidence) if a.role != "baseline"]
    values = measures.by_seed(evidence, evidence.header["primary"])
    baseline = values[evidence.header["baseline"]]
    bought = _bought_steps(evidence)
    asked = bool((evidence.header["spec"] or {}).get("equal_compute"))
    by_runs = asked or bool((evidence.runs["kind"] == LONGER).any())
    curves = None if by_runs else along(evidence)
    borrowed = set(measures.borrowers(evidence))
    found = {}
    for arm in others:
        common = sorted(set(values[arm]) & set(baseline))
        steps = [bought[arm, seed] for seed in common]
        if not common:
            found[arm] = _nothing("no seed has finished in both arms")
        elif arm in borrowed:
            found[arm] = _nothing(
                "its weights come from another arm's runs, which that arm paid for"
            )
        elif any(math.isnan(number) for number in steps):
            found[arm] = _nothing("a part of its overhead is not on record")
        elif not any(steps):
            pair = paired_difference(values[arm], baseline)
            found[arm] = AtEqualCompute("same", pair, "its overhead in FLOPs buys no step")
        elif curves is None:
            found[arm] = _by_runs(evidence, arm, values[arm], baseline, bought)
        else:
            found[arm] = _by_curve(evidence, curves, arm, common)
    return found


def is_waiting(evidence: Evidence) -> bool:
    """Tell whether the baseline is still to be trained at the compute of a finished run."""
    if not (evidence.header["spec"] or {}).get("equal_compute"):
        return False
    longer = evidence.runs[evidence.runs["kind"] == LONGER]
    there = set(zip(longer["arm"], longer["seed"], strict=True))
    baseline = evidence.header["baseline"]
    return any(
        steps > 0 and (arm, seed) not in there and arm != baseline
        for (arm, seed), steps in _bought_steps(evidence).items()
    )


def _nothing(reason: str) -> AtEqualCompute:
    return AtEqualCompute("", None, reason)


def _bought_steps(evidence: Evidence) -> dict[tuple[str, int], float]:
    """Return by arm and seed the steps of training that its overhead would buy, NaN if unknown."""
    bills = measures.costs(evidence)
    steps = [evidence.run_headers[run_id]["num_steps"] for run_id in bills["run_id"]]
    numbers = (bills["overhead_flops"] / bills["train_flops"] * steps).round()
    return dict(zip(zip(bills["arm"], bills["seed"], strict=True), numbers, strict=True))


def _by_runs(
    evidence: Evidence,
    arm: str,
    values: dict[int, float],
    baseline: dict[int, float],
    bought: dict[tuple[str, int], float],
) -> AtEqualCompute:
    """Subtract the longer baseline; at a seed whose overhead buys no step, the baseline itself.

    Seeds of the second kind are no comparison by themselves: which they are is decided by what the
    arm cost, and to leave out all others would be to choose.
    """
    runs = measures.longer_runs(evidence)
    own = runs[(runs["arm"] == arm) & runs["seed"].isin(values)]
    common = sorted(set(values) & set(baseline))
    same = [seed for seed in common if bought[arm, seed] == 0]
    if own.empty:
        reason = "no run of the baseline at its compute has finished"
        if same:
            reason += f", and to compare {_named(same)} alone, where its overhead buys no step, "
            reason += "would be to choose"
        return _nothing(reason)
    table = measures.metrics(evidence, own)
    losses = table[evidence.header["primary"]].astype(float)
    longer = dict(zip(table["seed"].astype(int), losses, strict=True))
    longer |= {seed: baseline[seed] for seed in same}
    lost = [seed for seed in common if seed not in longer]
    said = _compared(evidence, own, same, lost)
    return AtEqualCompute("runs", paired_difference(values, longer), said)


def _compared(evidence: Evidence, own: pd.DataFrame, same: list[int], lost: list[int]) -> str:
    """Say how long the baseline was trained, at which seeds not longer, and which have no run."""
    steps = sorted({evidence.run_headers[run_id]["num_steps"] for run_id in own["run_id"]})
    lengths = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    said = f"{evidence.header['baseline']} trained for {lengths} steps"
    if same:
        said += f", and no longer at {_named(same)}, where the overhead buys no step"
    if lost:
        said += f"; without {_named(lost)}, where no such run has finished"
    return said


def _named(seeds: list[int]) -> str:
    return f"seed {', '.join(map(str, seeds))}"


def _by_curve(
    evidence: Evidence, curves: pd.DataFrame, arm: str, seeds: list[int]
) -> AtEqualCompute:
    baseline = curves[curves["arm"] == evidence.header["baseline"]]
    point = _readable(evidence, baseline, seeds)
    if isinstance(point, str):
        return _nothing(point)
    own = curves[curves["arm"] == arm]
    losses, shares = {}, []
    for seed in seeds:
        at = _read(evidence, own[own["seed"] == seed].sort_values("step"), point, seed)
        if isinstance(at, str):
            return _nothing(at)  # to leave out a seed that cannot be read would be to choose
        losses[seed], share = at
        shares.append(share)
    undecayed = " of both, before the decay" if _schedule(evidence)["schedule"] == "wsd" else ""
    said = f"its own curve at {np.mean(shares):.0%} of the tokens{undecayed}"
    return AtEqualCompute("curve", paired_difference(losses, point.losses), said)


def _schedule(evidence: Evidence) -> Json:
    spec = evidence.header["spec"] or {}
    found: Json = spec.get("optimizer") or {"schedule": None}
    return found


def _readable(evidence: Evidence, baseline: pd.DataFrame, seeds: list[int]) -> _Point | str:
    """Return where the baseline is read, or why no curve may be."""
    optimizer = _schedule(evidence)
    schedule, last = optimizer["schedule"], int(baseline["step"].max())
    if schedule not in ("constant", "wsd"):
        name = schedule or "unknown"
        return (
            f"under a {name} schedule no point of a curve stands for a shorter run; "
            "equal_compute = true asks for the runs"
        )
    if schedule == "wsd":
        last -= math.ceil(optimizer["decay"] * last)  # steps before the rate falls
    rows = baseline[baseline["seed"].isin(seeds) & (baseline["step"] <= last)]
    step = int(rows["step"].max()) if len(rows) else 0
    at = rows[rows["step"] == step].set_index("seed")
    if step == 0 or set(at.index) != set(seeds):
        return "the baseline was not evaluated before the learning rate falls"
    primary = evidence.header["primary"]
    return _Point(step, at["flops"].astype(float).to_dict(), at[primary].astype(float).to_dict())


def _read(
    evidence: Evidence, curve: pd.DataFrame, point: _Point, seed: int
) -> tuple[float, float] | str:
    """Return the loss that the baseline's compute at `point` would have bought, and where.

    Where: as a share of the point's tokens. Or why there is none.
    """
    flops, steps = curve["flops"].to_numpy(float), curve["step"].to_numpy(float)
    start, budget = flops[0], point.flops[seed]  # the first evaluation is before the first step
    if start >= budget:
        return "its overhead alone is more than the budget"
    left = steps[-1] * (budget - start) / (flops[-1] - start)  # in steps
    warmup = math.ceil(_schedule(evidence).get("warmup", 0.0) * steps[-1])
    if left < warmup:
        return "its overhead leaves less than the warm-up"
    if left < steps[1]:
        return "its overhead leaves less than the steps before its first evaluation"
    if left > point.step + 0.5:
        return "it cost less than the baseline, whose compute lies beyond what can be read"
    losses = curve[evidence.header["primary"]].to_numpy(float)
    return float(np.interp(left, steps, losses)), left / point.step
