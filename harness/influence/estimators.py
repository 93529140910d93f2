"""Every estimator by name, and the setting that chooses one.

In a spec it is a table, or its name alone where the defaults will do:

    settings = { estimator = "group" }
    settings = { estimator = { kind = "jvp_landmark", landmarks = 64, layers = 2 } }
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from harness.influence.directional_estimator import Directional
from harness.influence.ekfac import Ekfac
from harness.influence.gradients import GradCos, GradDot, Group
from harness.influence.influcoder import Influcoder
from harness.influence.landmark import SEED000, HiddenLandmark, JvpLandmark

__all__ = ["ESTIMATORS", "SEED000", "AnyEstimator", "check_ranks"]

ESTIMATORS = {
    "directional": Directional,
    "grad_dot": GradDot,
    "grad_cos": GradCos,
    "group": Group,
    "jvp_landmark": JvpLandmark,
    "hidden_landmark": HiddenLandmark,
    "ekfac": Ekfac,
    "influcoder": Influcoder,
}


def _as_table(value: Any) -> Any:
    """Let a name stand for an estimator's defaults, and a table without one for the default."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "directional", **value} if isinstance(value, dict) else value


AnyEstimator = Annotated[
    Directional | GradDot | GradCos | Group | JvpLandmark | HiddenLandmark | Ekfac | Influcoder,
    Field(discriminator="kind"),
    BeforeValidator(_as_table),
]


def check_ranks(estimator: AnyEstimator, sharded: bool) -> None:
    """Refuse an estimator that several ranks cannot compute; ValueError says what they can."""
    if isinstance(estimator, Ekfac) and "kronfluence" in (estimator.fitter, estimator.route):
        fix = 'set fitter = "hooks", which finds the same factors, and route = "auto"'
        raise ValueError(f"estimator: kronfluence would take a share of the rows apart; {fix}")
    if not sharded:
        return
    fix = 'or parallel = "ddp"'
    if not isinstance(estimator, Directional):
        why = 'reads whole parameters, which no rank has with parallel = "fsdp"'
        raise ValueError(f'estimator: {estimator.kind} {why}; choose "directional", {fix}')
    if estimator.difference == "forward" or estimator.precision == "bfloat16":
        why = "forward mode and bfloat16 scoring compute with whole parameters"
        wanted = 'difference = "one_sided" or "central", in float32'
        raise ValueError(f"estimator: {why}; set {wanted}, {fix}")
