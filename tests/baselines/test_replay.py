"""Controls that replay an arm: what they keep of it, and that they name one that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baselines.doge import DoGE
from baselines.odm import ODM
from baselines.replay import RandomWalk, Replay, ShuffledSchedule
from baselines.schedules import Scheduled, stretches, walked
from baselines.static import Static
from baselines.static_tuned import StaticTuned
from harness.api import Mixer
from harness.binding import bound
from harness.identity import describe
from harness.testing import checks
from harness.testing.world import world
from tests.doubles import FakeView, PlanRunner, PlanSpec

FOUND = torch.tensor([[0.5, 0.3, 0.2]] * 2 + [[0.2, 0.2, 0.6]] * 5 + [[0.6, 0.3, 0.1]] * 3).double()
NAMES = ("a", "b", "c")


def made(control: type[Mixer], seed: int = 0) -> Mixer:
    """Return the main run's mixer that a control makes of FOUND."""
    one = bound({"dynamic": ODM(), "control": control(of="dynamic")})["control"]  # type: ignore[call-arg]
    mixer: Mixer = one.made(FOUND, NAMES, seed)  # type: ignore[attr-defined]
    return mixer


def played(mixer: Mixer) -> torch.Tensor:
    """Return the weights of ten steps."""
    view = FakeView()
    state = mixer.init(view)
    rows = []
    for view.step in range(10):
        rows.append(mixer.propose(view, state))
    return torch.stack(rows)


def test_replay_is_static_at_the_time_average() -> None:
    """(2 x .5 + 5 x .2 + 3 x .6) / 10 = .38 and so on."""
    mixer = made(Replay)

    assert isinstance(mixer, Static)
    assert isinstance(mixer.weights, dict)
    assert mixer.weights == pytest.approx({"a": 0.38, "b": 0.25, "c": 0.37})


def test_a_shuffled_schedule_has_the_same_stretches_in_another_order() -> None:
    """And so the same time average; the order is the seed's."""
    orders = set()
    for seed in range(8):
        weights = played(made(ShuffledSchedule, seed))
        assert sorted(stretches(weights)) == sorted(stretches(FOUND))
        assert torch.allclose(weights.mean(0), FOUND.mean(0))
        assert not torch.equal(weights, FOUND)
        orders.add(tuple(steps for steps, _ in stretches(weights)))

    assert len(orders) > 3


def test_a_random_walk_moves_as_far_and_as_often_from_the_same_start() -> None:
    """Steps of |(.3, .1, -.4)| = .51 and |(.4, .1, -.5)| = .648, at steps 2 and 7."""
    walks = [played(made(RandomWalk, seed)) for seed in range(5)]

    for weights in walks:
        found = stretches(weights)
        assert [steps for steps, _ in found] == [2, 5, 3]
        assert torch.equal(weights[0], FOUND[0])
        assert bool((weights >= 0).all())
        assert torch.allclose(weights.sum(1), torch.ones(10).double())
        for at in (2, 7):
            wanted = (FOUND[at] - FOUND[at - 1]).norm()
            assert float((weights[at] - weights[at - 1]).norm()) <= float(wanted) + 1e-9
    lengths = [float((w[2] - w[1]).norm()) for w in walks]
    assert max(lengths) == pytest.approx(0.26**0.5)
    assert len({tuple(w[2].tolist()) for w in walks}) == 5


def test_small_steps_of_a_walk_keep_their_length() -> None:
    """Inside of the simplex nothing is projected."""
    steps = torch.full((50, 3), 1 / 3).double()
    steps[1::2, 0] += 0.01
    steps[1::2, 1] -= 0.01

    walk = walked(stretches(steps), NAMES, seed=3)

    places = torch.tensor([weights for _, weights in walk]).double()
    lengths = (places[1:] - places[:-1]).norm(dim=1)
    assert torch.allclose(lengths, torch.full_like(lengths, 0.01 * 2**0.5))


def test_a_control_names_another_arm_that_is_there() -> None:
    """Not itself, not a circle; what is there is said."""
    with pytest.raises(ValueError, match=r"x\.settings\.of: 'y' is no other arm; choose another"):
        bound({"x": Replay(of="y"), "z": Static()})
    with pytest.raises(ValueError, match="of: 'x' is no other arm"):
        bound({"x": Replay(of="x"), "z": Static()})
    with pytest.raises(ValueError, match=r"y\.settings\.of: 'x' is no other arm"):
        bound({"x": Replay(of="y"), "y": Replay(of="x")})
    with pytest.raises(ValueError, match=r"inner\.settings\.of: 'nobody'"):
        bound({"outer": Replay(of="inner"), "inner": Replay(of="nobody"), "z": Static()})
    with pytest.raises(ValueError, match="give the spec another arm"):
        bound({"x": Replay(of="x")})


def test_what_is_bound_is_in_the_identity_and_the_label_is_not() -> None:
    """Renaming an arm re-runs nothing; changing it re-runs its control."""
    one = bound({"d": ODM(), "x": Replay(of="d")})["x"]
    renamed = bound({"e": ODM(), "x": Replay(of="e")})["x"]
    changed = bound({"d": ODM(smoothing=0.8), "x": Replay(of="d")})["x"]
    other = bound({"d": ODM(), "x": ShuffledSchedule(of="d")})["x"]

    assert describe(one) == describe(renamed)
    assert describe(one) != describe(changed)
    assert describe(one) != describe(other)
    assert one.others() == (ODM(),)


def test_a_control_of_a_control_is_bound_all_the_way() -> None:
    """The replay of a random walk of an arm."""
    one = bound({"d": ODM(), "walk": RandomWalk(of="d"), "x": Replay(of="walk")})["x"]

    (walk,) = one.others()
    assert walk.others() == (ODM(),)


def test_a_schedule_goes_by_the_domains_names() -> None:
    """Columns are put in the order of the view."""
    mixer = Scheduled(domains=("c", "a", "b"), stretches=((10, (0.2, 0.5, 0.3)),))

    assert played(mixer)[0].tolist() == [0.5, 0.3, 0.2]


def test_an_arm_that_never_changes_cannot_be_shuffled() -> None:
    """The control would be the arm."""
    for control in (ShuffledSchedule, RandomWalk):
        with pytest.raises(ValueError, match="the weights of 's' never change; choose an arm that"):
            bound({"s": Static(), "x": control(of="s")})
    # where only the run tells
    one = bound({"d": ODM(), "x": ShuffledSchedule(of="d")})["x"]
    with pytest.raises(ValueError, match="weights never change; there is nothing to shuffle"):
        one.made(FOUND[:2], NAMES, 0)  # type: ignore[attr-defined]


def test_an_arm_that_weighs_losses_cannot_be_replayed() -> None:
    """DoGE online samples uniformly; its alphas are in the loss."""
    one = bound({"d": DoGE(form="online"), "x": Replay(of="d")})["x"]

    with pytest.raises(ValueError, match="this arm weighs losses and samples alike"):
        one.plan(PlanSpec(), PlanRunner())


def test_a_control_by_itself_refuses_to_run() -> None:
    """In a trainer of one's own, say: it is a name until a spec binds it."""
    with pytest.raises(ValueError, match="Replay replays another arm of a spec"):
        Replay(of="x").init(FakeView())


@pytest.mark.parametrize(
    "inner", [Replay(of="s"), Static(weights={"a": 0.25, "b": 0.75}), StaticTuned(trials=2)]
)
def test_a_control_whose_main_run_is_the_arms_own_runs(inner: Mixer, tmp_path: Path) -> None:
    """The replay of what is static, or of a replay, is the same run; of a search, its result."""
    mixers = bound({"s": Static(weights={"a": 0.25, "b": 0.75}), "inner": inner, "x": Replay(of="inner")})  # fmt: skip # noqa: E501
    two = world(2)
    runner = checks.runner_in(tmp_path, two)

    arm = runner.carry_out(two.spec(mixer=mixers["inner"]))
    control = runner.carry_out(two.spec(mixer=mixers["x"]))

    assert control.auxiliary == ()
    assert {arm.main, *(i for i, _ in arm.auxiliary)} <= {control.main, *control.shown}
