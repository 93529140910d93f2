"""How often a rebalancer can afford to look: an interval from counts, known before it is spent.

A refresh is priced in row-forwards, forward passes of one row, of which a row that is trained on
takes three. The interval is the shortest at which the rows trained on in between are `TIMES` as
many as the row-forwards of a refresh: a sixtieth of training's operations, which leaves two thirds
of a twentieth of its seconds for what counts do not show. Rows and probes are as set: tuned on real
text, intervals were long and rows many, not the other way round (RESULTS.md, rebalancing tuned).
Nothing is timed, so a spec has one interval on every CPU. The price: two things are not counted
and are on the bill, comparisons with exact scores, and that a row takes three row-forwards, not
two, in the exact form that a directional derivative has where no finite difference holds.

On a GPU a run in bfloat16 tries the exact form first, so that is priced, and its trial, whose
row-forwards in float32 count FLOAT32 times: what is left is about a hundredth of training's
operations. Other estimators that compute in float32 there are dearer than they are priced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from harness.influence.directional import GRADIENT_STEPS, STEPS
from harness.influence.directional_estimator import Directional
from harness.influence.ekfac import Ekfac

if TYPE_CHECKING:
    from harness.api import Note
    from harness.influence.estimators import AnyEstimator
    from harness.influence.schedule import Schedule

TIMES = 20
GRADIENT = 3  # row-forwards of a row's gradient
# A product in float32 by those in bfloat16 on a GPU: 15 and 16 by data sheet (H100 and A100).
FLOAT32 = 15
# Row-forwards to score a row and to fit on one, at each estimator's defaults: at least what a nano
# run's ledger bills and RESULTS.md has in steps. A larger model makes Influcoder's fit cheaper.
FORWARDS = {
    "directional": (2, 0),
    "grad_dot": (3, 0),
    "grad_cos": (3, 0),
    "group": (3, 0),
    "jvp_landmark": (5, 6),
    "hidden_landmark": (1, 4),
    "ekfac": (2, 10),
    "influcoder": (1, 45),
}


class Passes(NamedTuple):
    """Row-forwards of one refresh, by what they are for."""

    candidates: int
    query: int
    trial: int  # of finite differences: at the present parameters, and at each step if none holds
    fit: int  # spread over the refreshes that use it; one that is made once is not counted
    bend: int = 0  # second derivatives

    @property
    def total(self) -> int:
        """Return their sum."""
        return sum(self)


def passes(
    plan: Schedule,
    num_domains: int,
    num_targets: int,
    bends: bool = False,
    fast_bfloat16: bool = False,
) -> Passes:
    """Return what a refresh takes with K trained domains and `num_targets` probed for the query.

    `fast_bfloat16`: the run trains in bfloat16 on a GPU.
    """
    scored, fitted = FORWARDS[plan.estimator.kind]
    trial = _trial(plan.estimator)
    if fast_bfloat16 and trial and isinstance(plan.estimator, Directional):
        scored, trial = GRADIENT, exact_trial(plan.estimator.check_rows, FLOAT32)
    candidates, probes = num_domains * plan.rows, num_targets * plan.probe_rows
    pool = num_domains * (plan.pool_rows or plan.rows)
    return Passes(
        candidates=scored * candidates,
        query=GRADIENT * probes,
        trial=trial,
        fit=math.ceil(fitted * pool / plan.refit) if plan.refit else 0,
        # harness/influence/second_order.py: the domains' steps, and their products with the Hessian
        bend=GRADIENT * (candidates + probes * (1 + 2 * num_domains)) if bends else 0,
    )


def steps_between(taken: Passes, batch_rows: float, num_steps: int) -> int:
    """Return the interval in steps: by the formula, and at most half of the run."""
    return max(1, min(math.ceil(TIMES * taken.total / batch_rows), num_steps // 2))


def reason(taken: Passes, batch_rows: float, num_steps: int) -> dict[str, Note]:
    """Return the formula with its numbers, for the records."""
    parts = ", ".join(f"{name} {count}" for name, count in taken._asdict().items() if count)
    asked = math.ceil(TIMES * taken.total / batch_rows)
    every = steps_between(taken, batch_rows, num_steps)
    said = f"{TIMES} x {taken.total} row-forwards ({parts}) / {batch_rows:g} rows: {asked} steps"
    if every < asked:
        said += f"; half of {num_steps} is less, and dearer"
    return {
        "every": every,
        "row_forwards": taken.total,
        "batch_rows": batch_rows,
        "reason": said,
    }


def _trial(estimator: AnyEstimator) -> int:
    if isinstance(estimator, Directional) and estimator.difference != "forward":
        return estimator.check_rows * (1 + len(GRADIENT_STEPS))
    if isinstance(estimator, Ekfac):
        return estimator.check_rows * (1 + len(STEPS))
    return 0


def exact_trial(check_rows: int, float32: int) -> int:
    """Return the price of half the rows in both precisions, and of two by a plain gradient."""
    tried = math.ceil(check_rows / 2)
    return GRADIENT * (tried + float32 * (tried + min(2, tried)))
