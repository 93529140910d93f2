"""The influence mixer's arithmetic by hand, and its behaviour on a domain of noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from baselines.influence import Influence
from tests.doubles import FakeView


def updated(mixer: Influence, scores: list[float], current: list[float] | None = None) -> Tensor:
    """Return the weights that follow from standardised scores."""
    view = FakeView()
    state = mixer.init(view)
    state["scores"] = torch.tensor(scores, dtype=torch.float64)
    if current is not None:
        state["weights"] = torch.tensor(current, dtype=torch.float64)
    return mixer._update(view, state)


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


def test_bounds_without_a_mixture_are_refused_before_any_run() -> None:
    """Four domains cannot all get 30 %."""
    with pytest.raises(ValueError, match="leave no mixture of 4 domains"):
        Influence(floor=0.3).check(("a", "b", "c", "d"), {"a": 1.0})
