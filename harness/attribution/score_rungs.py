"""What is done where scores are not finite: errors with advice, and a ladder of dampings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.errors import SpecError

# What more damping tries after the damping asked for: times it, then shares of the mean eigenvalue.
FACTORS = (10.0, 100.0)
SHARES = (0.1, 1.0)


class NonFiniteScoresError(SpecError, FloatingPointError):
    """Some scores are no numbers, or no float32 holds them."""


class MoreDampingError(Exception):
    """The damping does not do: all rows are to be scored anew with the next one."""


def dampings(estimator: Any) -> list[Any]:
    """Return the estimator with each damping that is tried in turn, the one asked for first."""
    ladder = [estimator]
    if not is_damped(estimator):
        return ladder
    ladder += [replace(estimator, damping=estimator.damping * factor) for factor in FACTORS]
    for share in SHARES:
        if estimator.damping_unit == "absolute" or share > ladder[-1].damping:
            ladder.append(replace(estimator, damping=share, damping_unit="relative"))
    return ladder


def is_damped(estimator: Any) -> bool:
    """Tell whether an inverse stands in the scores."""
    return bool(estimator.kind == "ekfac" and estimator.strategy != "identity")


def is_small(estimator: Any) -> bool:
    """Tell whether the network computes in less than float32."""
    return getattr(estimator, "precision", "float32") != "float32"


def advice(estimator: Any, choice: str) -> str:
    """Return what may help, to be put behind a message."""
    if choice == "retry-float32":
        return '; on_nonfinite = "retry-float32": it is in float32 already'
    choices = ['"mask" leaves out what is to blame']
    choices += ['"retry-float32" computes it in float32'] if is_small(estimator) else []
    choices += ['"more-damping" raises the damping'] if is_damped(estimator) else []
    return f"; scores.on_nonfinite: {', '.join(choices)}"
