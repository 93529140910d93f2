"""From a label of the spec to an estimator and what it has fitted.

ekfac and its kin score with the factors that `attribute fit` has left, so their settings of fitting
are those of [factors]. Landmarks and influcoder learn from train rows here, and what they learn is
kept beside the scores. The others fit nothing.

Every estimator is asked for each query by itself: one whose `queries` is a mean or the target in a
run gets a column per query here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from harness.attribution import fit
from harness.attribution.evaluation.baselines import BASELINES, Baseline
from harness.attribution.fit_key import estimator as settings_of
from harness.attribution.nonfinite import Decisions
from harness.attribution.score_spec import CURVED
from harness.errors import SpecError
from harness.influence.along_queries import check_rows
from harness.influence.ekfac import Ekfac
from harness.influence.estimators import AnyEstimator

if TYPE_CHECKING:
    from harness.api import State
    from harness.attribution.fit_spec import Factors
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.rows import Pool
    from harness.attribution.spec import Attribution

# What each kind can do beyond a total; an option that it cannot is left out, and said.
HOOKED = ("grad_dot", "grad_cos", "ekfac")  # row gradients are there: parts, ranks, own scores
LEARNING = ("jvp_landmark", "hidden_landmark", "influcoder")
CHECKED = 16  # rows on which a finite difference's step is checked, where nothing was fitted
SCORING = ("damping", "damping_unit", "reduction", "route", "precision", "check_rows", "chunk_rows")


@dataclass(frozen=True)
class Chosen:
    """An estimator as the spec asks for it."""

    label: str
    estimator: Any
    strategy: str | None
    """Of the factors it scores with; None where it needs none."""

    @property
    def kind(self) -> str:
        """The engine's name for it."""
        return str(self.estimator.kind)

    @property
    def is_hooked(self) -> bool:
        """Tell whether scores come from row gradients."""
        return self.kind in HOOKED and getattr(self.estimator, "route", "auto") in ("auto", "hooks")


def choose(spec: Attribution, label: str) -> Chosen:
    """Return the estimator under a label; SpecError where its settings are wrong."""
    if label not in spec.scores.estimators:
        there = ", ".join(spec.scores.estimators)
        raise SpecError(f"scores.estimators: {label!r} is not there; there are {there}")
    given = spec.scores.estimators[label]
    table = {"kind": given} if isinstance(given, str) else dict(given)
    if "detail" in table:  # its arrays would be computed, and no store has a place for them
        fix = "set scores.modules or scores.tokens, which are of every estimator"
        raise SpecError(f"scores.estimators.{label}.detail: is no setting of a label; {fix}")
    if table["kind"] in CURVED:
        strategy = table["kind"]
        return Chosen(label, _curved(spec, label, strategy, table), strategy)
    if table["kind"] in BASELINES:
        return Chosen(label, _validated(label, table, Baseline), None)
    estimator = _validated(label, table)
    return Chosen(label, replace(estimator, queries="each"), None)


def factors_table(spec: Attribution, strategy: Any) -> Factors:
    """Return [factors] as it has to be fitted for a strategy: ekfac's serve kfac as well."""
    if (spec.factors.strategy, strategy) == ("ekfac", "kfac"):
        return spec.factors
    return replace(spec.factors, strategy=strategy)


def needed_factors(spec: Attribution) -> list[Factors]:
    """Return each table that `fit` has to fit so that every estimator of the spec can score."""
    found: list[Factors] = []
    for label in spec.scores.estimators:
        strategy = choose(spec, label).strategy
        table = factors_table(spec, strategy) if strategy not in (None, "identity") else None
        if table is not None and table not in found:
            found.append(table)
    return found


def _curved(spec: Attribution, label: str, strategy: Any, table: dict[str, Any]) -> Ekfac:
    fitted = asdict(settings_of(factors_table(spec, strategy)))
    own = {name: value for name, value in table.items() if name != "kind"}
    for name in own:
        if name in fitted and name not in SCORING:
            where = f"scores.estimators.{label}.{name}"
            raise SpecError(f"{where}: belongs to what is fitted; set it in [factors]")
    settings = {**fitted, **own, "strategy": strategy, "queries": "each"}
    found: Ekfac = _validated(label, settings)
    return found


def _validated(label: str, table: dict[str, Any], kind: Any = AnyEstimator) -> Any:
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][kind is AnyEstimator :])
        where = f"scores.estimators.{label}" + (f".{where}" if where else "")
        raise SpecError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def fitted_factors(
    opened: Opened, pool: Pool, spec: Attribution, chosen: Chosen, places: Places
) -> tuple[State, Any]:
    """Return fitted factors, and the estimator, its damping raised where the fit has raised it.

    SpecError where they are not fitted, or stale. Without curvature nothing need be fitted.
    """
    if chosen.strategy == "identity":
        rows = pool.batch(np.linspace(0, len(pool) - 1, min(CHECKED, len(pool))).astype(np.int64))
        return check_rows(rows, CHECKED), chosen.estimator
    table = factors_table(spec, chosen.strategy)
    state = fit.open_factors(opened, pool, table, places)
    own = spec.scores.estimators[chosen.label]
    if isinstance(own, dict) and "damping" in own:
        return state, chosen.estimator
    raised = fit.estimator(opened, pool, table, places).damping
    return state, replace(chosen.estimator, damping=raised)


def factors_decisions(
    opened: Opened, pool: Pool, spec: Attribution, chosen: Chosen, places: Places
) -> dict[str, Any] | None:
    """Return what the fit of an estimator's factors has left out, raised or fitted in float32.

    None where there was nothing of the kind: the factors' key says all.
    """
    name = factors_key(opened, pool, spec, chosen)
    return None if name is None else Decisions.read(places.factors(name)).effects()


def factors_key(opened: Opened, pool: Pool, spec: Attribution, chosen: Chosen) -> str | None:
    """Return the digest that names the factors an estimator scores with; None without any."""
    if chosen.strategy in (None, "identity"):
        return None
    return fit.key(opened, pool, factors_table(spec, chosen.strategy))
