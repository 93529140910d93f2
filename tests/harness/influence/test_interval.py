"""How often a rebalancer looks: the formula by hand, and its counts against the ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from baselines.influence import Influence
from harness.influence import directional_forms, schedule
from harness.influence.directional_estimator import Directional
from harness.influence.estimators import ESTIMATORS
from harness.influence.interval import (
    FORWARDS,
    Passes,
    exact_trial,
    passes,
    reason,
    steps_between,
)
from harness.influence.rebalancing import refresh
from harness.view import RunView


def test_the_formula_by_hand() -> None:
    """2 x 5 x 16, 3 x 32 and 8 x 4 are 288; 20 times that at 16 rows a step is 360 steps."""
    taken = passes(Influence(), num_domains=5, num_targets=1)

    assert taken == Passes(candidates=160, query=96, trial=32, fit=0)
    assert taken.total == 288
    assert steps_between(taken, batch_rows=16, num_steps=1000) == 360
    assert steps_between(taken, batch_rows=256, num_steps=1000) == 23  # 22.5, rounded up


def test_rows_and_probes_and_targets_count() -> None:
    """Half the rows and probes, 160: every 200 steps. Two targets have twice the probe rows."""
    half = Influence(rows=8, probe_rows=16)

    assert steps_between(passes(half, 5, 1), 16, 1000) == 200
    assert passes(half, 5, 2).query == 2 * passes(half, 5, 1).query == 96


@pytest.mark.parametrize(("num_steps", "every"), [(1000, 360), (719, 359), (300, 150), (2, 1)])
def test_a_short_run_has_its_first_refresh_by_the_middle(num_steps: int, every: int) -> None:
    """However dear: a rebalancer that never acts is none. A run of two has one after a step."""
    assert steps_between(passes(Influence(), 5, 1), 16, num_steps) == every


def test_a_fit_counts_by_the_refreshes_that_use_it() -> None:
    """10 row-forwards for each of 3 x 16 rows; a third where it serves three refreshes."""
    own: Any = {"estimator": {"kind": "ekfac", "fitter": "hooks"}}

    assert [passes(Influence(refit=n, **own), 3, 1).fit for n in (1, 3, 0)] == [480, 160, 0]
    assert passes(Influence(pool_rows=32, **own), 3, 1).fit == 960


def test_second_derivatives_count() -> None:
    """A gradient of every candidate, and 1 + 2 K of every probe row: 3 (80 + 32 x 11)."""
    taken = passes(Influence(rule="qp", second_order=True), 5, 1, bends=True)

    assert taken.bend == 3 * (80 + 32 * 11)
    assert taken.total == 288 + 1296


def test_the_reason_has_the_formulas_numbers() -> None:
    """Which a reader can check, and which say when the run's length has decided."""
    taken = passes(Influence(), 5, 1)

    assert reason(taken, 16.0, 1000) == {
        "every": 360,
        "row_forwards": 288,
        "batch_rows": 16.0,
        "reason": "20 x 288 row-forwards (candidates 160, query 96, trial 32) / 16 rows: 360 steps",
    }
    assert str(reason(taken, 16.0, 300)["reason"]).endswith("; half of 300 is less, and dearer")


def test_a_gpu_in_bfloat16_pays_for_the_exact_form_and_its_trial_in_float32() -> None:
    """3 x 80; four rows in both precisions and two plain: 3 (4 + 15 x 6). By hand 772.5 steps."""
    taken = passes(Influence(), 5, 1, fast_bfloat16=True)
    landmarks: Any = {"estimator": "hidden_landmark"}

    assert taken == Passes(candidates=240, query=96, trial=282, fit=0)
    assert steps_between(taken, 16, 10_000) == 773
    assert passes(Influence(**landmarks), 5, 1, fast_bfloat16=True) == passes(
        Influence(**landmarks), 5, 1
    )


def test_every_estimator_has_a_price() -> None:
    """A new one is priced before it can be chosen."""
    assert FORWARDS.keys() == ESTIMATORS.keys()


@pytest.mark.parametrize("kind", [kind for kind in ESTIMATORS if kind != "influcoder"])
def test_a_refresh_is_billed_no_more_than_it_is_priced(kind: str, view: RunView) -> None:
    """By the ledger; an encoder's training hardly depends on the model, and is left out."""
    settings: dict[str, Any] = {"kind": kind}
    settings |= {"landmarks": 12} if kind.endswith("landmark") else {}
    settings |= {"fitter": "hooks"} if kind == "ekfac" else {}
    plan = Influence(estimator=settings, rows=4, probe_rows=4, fidelity_every=0)
    before = view.spent

    refresh(view, {}, plan, 0)

    billed = (view.spent - before) / view.row_flops.forward
    assert 0 < billed <= passes(plan, 3, 1).total


@pytest.mark.parametrize("check_rows", [1, 4, 8])
def test_the_exact_form_is_billed_what_it_is_priced(
    check_rows: int, view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the ledger, which counts an operation once whatever it is computed in.

    To 2 %: the backward pass of fused attention is two and a half forward passes, not two.
    """
    monkeypatch.setattr(directional_forms, "has_fast_bfloat16", lambda _: True)
    half = replace(view, precision="bfloat16")
    plan = Influence(estimator=Directional(check_rows=check_rows), rows=4, probe_rows=4)
    plan = replace(plan, fidelity_every=0)
    before = half.spent

    found = refresh(half, {}, plan, 0)

    assert found.about["form"] == "vector_bfloat16"
    priced = passes(plan, 3, 1, fast_bfloat16=True)._replace(trial=exact_trial(check_rows, 1))
    billed = (half.spent - before) / half.row_flops.forward
    assert 0.9 * priced.total < billed <= 1.02 * priced.total


def test_the_trial_counts_where_there_is_one(view: RunView) -> None:
    """Forward mode has no step to try."""
    plan = Influence()
    forward = replace(plan, estimator=replace(plan.estimator, difference="forward"))  # type: ignore[call-arg]

    assert (passes(plan, 3, 1).trial, passes(forward, 3, 1).trial) == (32, 0)


@pytest.mark.parametrize(("is_fast", "wanted"), [(False, 32), (True, 282)])
def test_a_run_is_priced_by_what_it_trains_in_and_on(
    is_fast: bool, wanted: int, view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note has the formula that was used."""
    monkeypatch.setattr(schedule, "has_fast_bfloat16", lambda _: is_fast)

    noted = replace(view, notes=[])
    Influence().interval(noted, {}, bends=False)

    assert f"trial {wanted})" in noted.notes[0]["values"]["reason"]
