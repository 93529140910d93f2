"""Skill-It against Algorithm 1 of arXiv:2307.14430: graph and weights by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.skill_it import SkillIt, SkillItMain
from baselines.static import Static
from tests.doubles import PlanRunner, PlanSpec, ProbedView


def helped(weights: Tensor) -> dict[str, float]:
    """Return losses after a run at a mixture: 4 at the start, a helps b, c helps nobody."""
    a, b, c = weights.tolist()
    if a == b == c:  # the untrained model, after one step
        return {"a": 4.0, "b": 4.0, "c": 4.0}
    return {"a": 4 - 2 * a, "b": 4 - a - 2 * b, "c": 4 + c}


def test_the_graph_is_the_relative_drop_and_never_negative() -> None:
    """A_aa = 2/4, A_ab = 1/4, A_bb = 2/4; c makes c worse, which counts as 0."""
    run = PlanRunner(losses=helped)

    SkillIt(objective="domains", proxy_steps=5).plan(PlanSpec(), run)

    assert run.main.mixer.graph == {
        "a": {"a": 0.5, "b": 0.25, "c": 0.0},
        "b": {"a": 0.0, "b": 0.5, "c": 0.0},
        "c": {"a": 0.0, "b": 0.0, "c": 0.0},
    }
    first, *alone = run.asked[:-1]
    assert (first.num_steps, first.mixer) == (1, Static())
    assert first.optimizer.learning_rate == 1e-12  # a step that moves nothing
    assert [spec.mixer for spec in alone] == [Static(weights={d: 1.0}) for d in "abc"]
    assert {spec.num_steps for spec in alone} == {5}


def test_for_a_target_only_its_column_is_there() -> None:
    """Out of domain: what each domain does for the target."""
    run = PlanRunner(losses=helped)

    SkillIt(objective="target").plan(PlanSpec(targets={"b": 1.0}), run)

    assert run.main.mixer.graph == {"a": {"b": 0.25}, "b": {"b": 0.5}, "c": {"b": 0.0}}
    assert run.asked[1].num_steps == 10  # a tenth of the main run


def test_weights_follow_graph_and_summed_losses() -> None:
    """Start: eta A 1 = 2 (.75, .5, 0). After losses (8, 8, 8), (1, 2, 9) and (3, 4, 9), window 2:

    2 A (4, 6, 18) = 2 (.5 x 4 + .25 x 6, .5 x 6, 0) = (7, 6, 0).
    """
    graph = {
        "a": {"a": 0.5, "b": 0.25, "c": 0.0},
        "b": {"a": 0.0, "b": 0.5, "c": 0.0},
        "c": {"a": 0.0, "b": 0.0, "c": 0.0},
    }
    mixer = SkillItMain(graph=graph, eta=2.0, window=2, rounds=10, probe_rows=1)
    view = ProbedView()
    state = mixer.init(view)

    start = mixer.propose(view, state)
    for view.step, losses in ((10, [8.0] * 3), (20, [1.0, 2.0, 9.0]), (30, [3.0, 4.0, 9.0])):
        view.probe_losses = torch.tensor(losses)
        weights = mixer.propose(view, state)
    view.step = 35
    between = mixer.propose(view, state)

    assert start.tolist() == pytest.approx(torch.softmax(torch.tensor([1.5, 1.0, 0.0]), 0).tolist())
    assert weights.tolist() == pytest.approx(torch.softmax(torch.tensor([7.0, 6, 0]), 0).tolist())
    assert torch.equal(between, weights)
    assert view.asked["probes"] == 3


def test_several_targets_weigh_in_by_the_runs_weights() -> None:
    """Three quarters on a and a quarter on b: columns times 1.5 and .5."""
    run = PlanRunner(losses=helped)

    SkillIt(objective="target").plan(PlanSpec(targets={"a": 0.75, "b": 0.25}), run)

    assert run.main.mixer.graph["a"] == pytest.approx({"a": 1.5 * 0.5, "b": 0.5 * 0.25})


@pytest.mark.parametrize(("steps", "times"), [(100, 10), (19, 10), (5, 5)])
def test_weights_are_set_once_a_round(steps: int, times: int) -> None:
    """Never more often than asked, in runs that rounds do not divide too."""
    graph = {name: {"a": 0.1} for name in "abc"}
    mixer = SkillItMain(graph=graph, eta=1.0, window=2, rounds=10, probe_rows=1)
    view = ProbedView(num_steps=steps)
    state = mixer.init(view)
    for view.step in range(steps):
        mixer.propose(view, state)

    assert view.asked["probes"] + 1 == times
