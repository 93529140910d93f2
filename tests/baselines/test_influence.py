"""The influence mixer's arithmetic by hand, and its behaviour on a domain of noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from baselines.influence import Influence
from harness.api import State
from harness.influence.directional_estimator import Directional
from harness.influence.estimators import SEED000
from harness.influence.gradients import Group
from harness.influence.landmark import JvpLandmark
from harness.loop import InterruptedRunError
from harness.spec import Batching
from tests.doubles import FakeView
from tests.tiny import MakeLoop, MakeSpec, Onlooker


def updated(mixer: Influence, scores: list[float], current: list[float] | None = None) -> Tensor:
    """Return the weights that follow from standardised scores."""
    view = FakeView()
    state = mixer.init(view)
    state["scores"] = torch.tensor(scores, dtype=torch.float64)
    if current is not None:
        state["weights"] = torch.tensor(current, dtype=torch.float64)
    return moved(mixer, view, state, torch.zeros(3, 3, dtype=torch.float64))


def moved(mixer: Influence, view: FakeView, state: State, bend: Tensor) -> Tensor:
    """Return the next weights at a state."""
    start = mixer.init(view)["weights"]
    return mixer.updated(state["scores"], state["weights"], start, bend)


def test_softmax_rule() -> None:
    """w = softmax(p / temperature), by hand for p = (0, log 2, log 5) at temperature 1."""
    got = updated(Influence(floor=0.0), [0.0, math.log(2), math.log(5)])

    assert got.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_temperature_divides_the_scores() -> None:
    """At temperature 1/2 the odds are squared."""
    got = updated(Influence(floor=0.0, temperature=0.5), [0.0, math.log(2), math.log(5)])

    assert got.tolist() == pytest.approx([1 / 30, 4 / 30, 25 / 30])


def test_exponentiated_rule_multiplies_the_current_weights() -> None:
    """w+ is proportional to w exp(p / temperature)."""
    mixer = Influence(floor=0.0, rule="exponentiated")

    got = updated(mixer, [0.0, math.log(2), 0.0], current=[0.5, 0.25, 0.25])

    assert got.tolist() == pytest.approx([0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("strength", "expected"),
    # facts of arXiv:2505.19051's robust objective at p = (.9, .5, .1), solved by hand
    [(0.5, [0.9, 0.1, 0.0]), (1.0, [0.7333, 0.3333, -0.0667]), (10.0, [0.3733, 0.3333, 0.2933])],
)
def test_qp_rule_solves_the_robust_objective(strength: float, expected: list[float]) -> None:
    """argmin -p.w + strength/2 |w - 1/K|^2 on the simplex: the projection of 1/K + p/strength."""
    mixer = Influence(floor=0.0, rule="qp", strength=strength, anchor="start")

    got = updated(mixer, [0.9, 0.5, 0.1])

    if min(expected) < 0:  # the corner: the negative entry is cut and the rest moves down together
        expected = [0.7, 0.3, 0.0]
    assert got.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_qp_rules_pull_is_towards_the_present_mixture_by_default() -> None:
    """w = current + (p - mean p) / strength inside the simplex: a tenth of (.4, 0, -.4) more."""
    mixer = Influence(floor=0.0, rule="qp", strength=10.0)

    got = updated(mixer, [0.9, 0.5, 0.1], current=[0.5, 0.25, 0.25])

    assert got.tolist() == pytest.approx([0.54, 0.25, 0.21], abs=1e-9)


def test_floor_and_cap_hold() -> None:
    """The floor is paid by the others in proportion, and the cap gives back."""
    got = updated(Influence(floor=0.1, cap=0.6), [-5.0, 0.0, 5.0])

    assert got.tolist() == pytest.approx([0.1, 0.3, 0.6])


def test_refreshes_come_every_so_many_steps_and_never_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At step 0 there is nothing to precondition with."""
    steps: list[int] = []
    monkeypatch.setattr(Influence, "_refresh", lambda self, view, state: steps.append(view.step))
    mixer, view = Influence(every=10), FakeView()
    state = mixer.init(view)
    for view.step in range(31):
        mixer.propose(view, state)

    assert steps == [10, 20, 30]


def test_an_interval_is_a_number_of_steps_or_auto() -> None:
    """Nothing else is one."""
    assert (Influence().every, Influence(every=7).every) == ("auto", 7)
    for wrong in (0, -1, True, 2.5, "often"):
        with pytest.raises(ValidationError, match="auto"):
            Influence(every=wrong)


def test_a_run_too_short_for_a_refresh_is_refused_before_it_starts() -> None:
    """By a number: at 100 in 12 steps. By the formula: two steps are enough."""
    with pytest.raises(ValueError, match="every: no refresh comes in 12 steps, at 100; lower it"):
        Influence(every=100).check_length(12, ("a", "b"))
    with pytest.raises(ValueError, match="no refresh comes in 1 step; train for 2 or more"):
        Influence().check_length(1, ("a", "b"))
    Influence().check_length(2, ("a", "b"))


def notes_of(watch: Onlooker, name: str) -> list[dict[str, Any]]:
    """Return the notes of one name."""
    return [r for r in watch.records if r["kind"] == "note" and r["name"] == name]


@pytest.mark.slow
def test_at_its_defaults_it_looks_when_it_can_afford_to(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """1,000 steps by the ledger, comparisons at every refresh included; and domains rank as exact.

    Three domains: 20 x (96 + 96 + 32) row-forwards at 16 rows a step are 280 steps.
    """
    watch = Onlooker()
    mixer = Influence(fidelity_every=1, fidelity_rows=8)  # ten times what is compared by default
    batch = Batching(rows=16, tokens=32)
    spec = make_spec(mixer=mixer, num_steps=1000, batch=batch, evaluation=None)
    loop = make_loop(spec, watch=watch)
    loop.run()

    (interval,) = notes_of(watch, "interval")
    fidelity = notes_of(watch, "fidelity")
    accounts = loop.meter.accounts
    assert interval["step"] == 1
    assert "20 x 224 row-forwards" in interval["values"]["reason"]
    assert [n["step"] for n in notes_of(watch, "rebalance")] == [280, 560, 840]
    assert [n["step"] for n in fidelity] == [280, 560, 840]
    assert [n["values"]["domain_spearman"] for n in fidelity] == pytest.approx([1.0] * 3)
    assert 0 < accounts["mixer"].flops <= 0.05 * accounts["train"].flops


def test_an_interval_by_formula_survives_a_stop(
    make_loop: MakeLoop, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Found once and kept: half of twelve steps, whoever goes on."""
    spec = make_spec(mixer=Influence(rows=4, probe_rows=2, fidelity_every=0))
    whole = make_loop(spec)
    whole.run()
    with pytest.raises(InterruptedRunError):
        make_loop(spec, folder=tmp_path / "cut", watch=Onlooker(stop_after=5)).run()
    watch = Onlooker()
    resumed = make_loop(spec, folder=tmp_path / "cut", watch=watch)
    resumed.run()

    assert int(resumed.state["every"]) == 6
    assert [n["step"] for n in notes_of(watch, "interval")] == [1]  # in the records, and once
    assert [n["step"] for n in notes_of(watch, "rebalance")] == [6]
    assert all(torch.equal(resumed.state[name], value) for name, value in whole.state.items())


def test_a_number_of_steps_leaves_no_trace_of_the_formula(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Neither in the state nor in the records: what was run before is what runs now."""
    watch = Onlooker()
    mixer = Influence(every=6, rows=4, probe_rows=2, fidelity_every=0)
    loop = make_loop(make_spec(mixer=mixer), watch=watch)
    loop.run()

    assert loop.state.keys() == {"weights", "scores", "refreshes"}
    assert not notes_of(watch, "interval")
    assert [n["step"] for n in notes_of(watch, "rebalance")] == [6]


def test_bounds_without_a_mixture_are_refused_before_any_run() -> None:
    """Four domains cannot all get 30 %."""
    with pytest.raises(ValueError, match="leave no mixture of 4 domains"):
        Influence(floor=0.3).check(("a", "b", "c", "d"), {"a": 1.0})


def test_the_seeds_rule_by_hand() -> None:
    """Scores (1, 2, 4) become shifts (0, 1, 3) / 4, clipped to (.01, .25, .75), over 1.01."""
    got = updated(Influence(rule="seed000"), [1.0, 2.0, 4.0])

    assert got.tolist() == pytest.approx([0.01 / 1.01, 0.25 / 1.01, 0.75 / 1.01])


def test_the_seeds_rule_brings_the_seeds_estimator() -> None:
    """Frozen landmarks, a linear kernel, raw scores; an estimator that is named is kept."""
    legacy = Influence(rule="seed000")

    assert legacy.estimator == SEED000
    assert (legacy.refit, legacy.standardize) == (0, False)
    assert (legacy.estimator.landmarks, legacy.estimator.kernel) == (16, "linear")
    assert Influence(rule="seed000", estimator="group").estimator == Group()
    assert Influence().estimator == Directional()


def test_the_bend_moves_weight_off_a_domain_that_overshoots() -> None:
    """K = 2 free weights by hand: with p = (1, 1, 0) and a bend on the first alone."""
    mixer, view = Influence(floor=0.0, rule="qp", strength=1.0, anchor="start"), FakeView()
    state = mixer.init(view)
    state["scores"] = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    bend = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))

    got = moved(mixer, view, state, bend)

    # -p + bend w + (w - 1/3) is equal on the support: 2 w1 - 4/3 = w2 - 4/3 with w3 = 0 in vain
    assert got.tolist() == pytest.approx([1 / 3, 2 / 3, 0.0], abs=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "softmax"},
        {"rule": "qp", "estimator": "jvp_landmark"},
        {"rule": "qp", "estimator": "group"},  # of linear layers: another loss of other parameters
        {"rule": "qp", "estimator": {"reduction": "sum"}},
    ],
)
def test_a_bend_without_its_slope_is_refused(settings: dict[str, Any]) -> None:
    """Another rule has no place for it, and other scores are not in its units."""
    with pytest.raises(
        ValueError, match=r"second_order: .*; set rule = \"qp\" and an estimator of dot"
    ):
        Influence(second_order=True, **settings).check(("a", "b"), {"a": 1.0})


def test_landmarks_of_dot_products_of_all_parameters_may_bend() -> None:
    """The published estimator under the robust objective, second order included."""
    landmark = {"kind": "jvp_landmark", "normalize": False, "modules": ["all"], "landmarks": 16}

    Influence(second_order=True, rule="qp", estimator=landmark).check(("a", "b"), {"a": 1.0})


def test_more_landmarks_than_rows_are_refused_before_any_run() -> None:
    """Two domains of sixteen candidates have no 64 landmarks; a larger pool has."""
    mixer = Influence(estimator="jvp_landmark")

    with pytest.raises(ValueError, match=r"estimator\.landmarks: 64, of a pool of 32 rows"):
        mixer.check(("a", "b"), {"a": 1.0})
    Influence(estimator="jvp_landmark", pool_rows=32).check(("a", "b"), {"a": 1.0})


def test_an_estimator_is_a_name_or_a_table() -> None:
    """Wrong keys and names are told in one line."""
    table = Influence(estimator={"kind": "jvp_landmark", "landmarks": 8})

    assert table.estimator == JvpLandmark(landmarks=8)
    assert Influence(estimator={"preconditioner": "none"}).estimator == Directional(
        preconditioner="none"
    )
    with pytest.raises(ValidationError, match="jvp_landmark"):
        Influence(estimator="nearest")
    with pytest.raises(ValidationError, match="landmark"):
        Influence(estimator={"kind": "jvp_landmark", "landmark": 8})


ARMS = {
    "group": {"estimator": "group"},
    "landmark": {"estimator": {"kind": "jvp_landmark", "landmarks": 6}},
    "hidden": {"estimator": {"kind": "hidden_landmark", "landmarks": 6}},
    "legacy": {"rule": "seed000", "rows": 8},
    "curved": {"rule": "qp", "second_order": True},
    "curved landmarks": {
        "rule": "qp",
        "second_order": True,
        "estimator": {
            "kind": "jvp_landmark",
            "normalize": False,
            "modules": ["all"],
            "landmarks": 8,
            "layers": 1,
        },
    },
    "ekfac": {"estimator": {"kind": "ekfac", "fitter": "hooks"}, "refit": 2},
    "influcoder": {
        "estimator": {"kind": "influcoder", "epochs": 1, "holdout": 0.0},
        "refit": 0,
        "stale_below": 0.1,
    },
}


@pytest.mark.parametrize("label", ARMS)
def test_every_estimator_rebalances_a_run(
    label: str, make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Two refreshes of a real run: weights on the simplex, scores and a comparison on record."""
    settings: dict[str, Any] = {"every": 4, "rows": 4, "probe_rows": 2, "fidelity_every": 1}
    watch = Onlooker()
    loop = make_loop(make_spec(mixer=Influence(**{**settings, **ARMS[label]})), watch=watch)
    loop.run()

    notes = [r for r in watch.records if r["kind"] == "note"]
    refreshes = [n["values"] for n in notes if n["name"] == "rebalance"]
    fidelity = [n["values"] for n in notes if n["name"] == "fidelity"]
    assert [n["step"] for n in notes if n["name"] == "rebalance"] == [4, 8]
    assert len(fidelity) == 2
    kind = Influence(**ARMS[label]).estimator.kind
    for values in refreshes:
        assert values["estimator"] == kind
        assert sum(values["weights"]) == pytest.approx(1.0)
        assert values["flops"] > 0
    for values in fidelity:
        assert -1 <= values["spearman"] <= 1
        assert values["exact_flops"] > 0
        assert values["estimator"] == kind


def test_the_exact_estimators_agree_on_record(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """The default arm's comparison: rank correlation with row gradients near 1."""
    watch = Onlooker()
    loop = make_loop(make_spec(mixer=Influence(every=4, rows=4, probe_rows=2)), watch=watch)
    loop.run()

    (note,) = [r for r in watch.records if r["kind"] == "note" and r["name"] == "fidelity"]
    assert note["step"] == 4
    assert note["values"]["spearman"] > 0.99
    assert note["values"]["domain_spearman"] == pytest.approx(1.0)


@pytest.mark.parametrize("label", ["ekfac", "influcoder", "legacy"])
def test_a_kept_fit_survives_a_stop(
    label: str, make_loop: MakeLoop, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Stopped between the refresh that fits and the one that does not: the same bits at the end."""
    settings: dict[str, Any] = {"every": 4, "rows": 4, "probe_rows": 2, "fidelity_every": 0}
    arm = {**settings, **ARMS[label]}
    spec = make_spec(mixer=Influence(**arm))
    whole = make_loop(spec)
    whole.run()
    with pytest.raises(InterruptedRunError):
        make_loop(spec, folder=tmp_path / "cut", watch=Onlooker(stop_after=5)).run()
    resumed = make_loop(spec, folder=tmp_path / "cut")
    resumed.run()

    assert any(name.startswith("fitted:") for name in resumed.state)
    assert resumed.state.keys() == whole.state.keys()
    assert all(torch.equal(resumed.state[name], value) for name, value in whole.state.items())
    mine, theirs = (loop.view.model.state_dict() for loop in (whole, resumed))
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
