"""AdamW as everyone trains with it, and a learning rate that depends on the step alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from harness.optim import build_optimizer, learning_rate
from harness.spec import Optimizer


def rates(num_steps: int, **settings: object) -> list[float]:
    """Return the rate of every step at a peak of 1."""
    spec = Optimizer(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(spec, step, num_steps) for step in range(num_steps)]


def test_warm_up_rises_linearly_to_the_peak() -> None:
    """Three of ten steps: 1/3, 2/3, 1; a constant schedule then stays."""
    assert rates(10, schedule="constant", warmup=0.3) == pytest.approx([1 / 3, 2 / 3] + [1.0] * 8)


def test_no_warm_up_starts_at_the_peak() -> None:
    """A share of 0 is no step at all."""
    assert rates(5, schedule="constant", warmup=0.0) == [1.0] * 5


def test_cosine_falls_from_the_peak_to_the_final_ratio() -> None:
    """Half a cosine over the steps after warm-up, both ends included."""
    found = rates(7, schedule="cosine", warmup=0.25, final_ratio=0.1)  # ceil(1.75) = 2 steps

    fall = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert found == pytest.approx([0.5, 1.0, *fall])
    assert found[-1] == pytest.approx(0.1)
    assert found[2] == pytest.approx(1.0)


def test_wsd_stays_at_the_peak_and_falls_linearly_at_the_end() -> None:
    """Warm-up 2, stable 4, decay 4 steps down to the final ratio."""
    found = rates(10, schedule="wsd", warmup=0.2, decay=0.4, final_ratio=0.25)

    assert found == pytest.approx([0.5, 1.0] + [1.0] * 4 + [1.0, 0.75, 0.5, 0.25])


def test_wsd_that_decays_all_the_way_is_a_line() -> None:
    """A decay of all steps leaves no stable phase."""
    assert rates(5, schedule="wsd", warmup=0.0, decay=1.0, final_ratio=0.0) == pytest.approx(
        [1.0, 0.75, 0.5, 0.25, 0.0]
    )


@pytest.mark.parametrize(("warmup", "cycles"), [(0.0, 1), (0.1, 3), (0.25, 2)])
def test_restarts_are_those_of_transformers(warmup: float, cycles: int) -> None:
    """Down to nothing, their scheduler's rates but for its first step, whose rate is 0."""
    from transformers import get_cosine_with_hard_restarts_schedule_with_warmup

    steps = 40
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_with_hard_restarts_schedule_with_warmup(
        optimizer, math.ceil(warmup * steps), steps, num_cycles=cycles
    )
    wanted = []
    for _ in range(steps):
        wanted.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()

    found = rates(
        steps, schedule="cosine_with_restarts", warmup=warmup, cycles=cycles, final_ratio=0.0
    )

    first = math.ceil(warmup * steps)
    assert found[first:] == pytest.approx(wanted[first:])
    assert found[:first] == pytest.approx([*wanted[1:first], 1.0][:first])


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"schedule": "cosine"}, 1.0),  # the one step is warm-up, which reaches the peak
        ({"schedule": "constant"}, 1.0),
        ({"schedule": "wsd"}, 1.0),
        ({"schedule": "cosine", "warmup": 0.0}, 0.1),  # the one step is the last: final_ratio
        ({"schedule": "wsd", "warmup": 0.0}, 0.1),
        ({"schedule": "constant", "warmup": 0.0}, 1.0),
    ],
)
def test_a_run_of_one_step_has_a_rate(settings: dict[str, object], rate: float) -> None:
    """No schedule divides by the zero steps that are left."""
    assert rates(1, **settings) == [pytest.approx(rate)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_last_step_ends_at_the_final_ratio(schedule: str) -> None:
    """However long the run is, once it is longer than its warm-up."""
    for num_steps in (2, 3, 10, 150, 1001):
        assert rates(num_steps, schedule=schedule, final_ratio=0.3)[-1] == pytest.approx(0.3)


class Net(nn.Module):
    """A matrix, vectors, an embedding, and a parameter that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.embedding = nn.Embedding(5, 3)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_weight_decay_applies_to_matrices_alone() -> None:
    """Biases, norms and other vectors are not pulled to zero; frozen parameters are not there."""
    net = Net()

    optimizer = build_optimizer(net, Optimizer(weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6))

    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    matrices = {id(net.linear.weight), id(net.embedding.weight)}
    vectors = {id(net.linear.bias), id(net.norm.weight), id(net.norm.bias)}
    assert decay == {**dict.fromkeys(matrices, 0.3), **dict.fromkeys(vectors, 0.0)}
    assert all(g["betas"] == (0.8, 0.9) and g["eps"] == 1e-6 for g in optimizer.param_groups)


def test_one_update_is_adamw_by_hand() -> None:
    """First step: p <- p (1 - lr wd) - lr g / (|g| + eps), with decay for the matrix alone."""
    net = Net()
    before = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    optimizer = build_optimizer(net, Optimizer(learning_rate=0.01, weight_decay=0.5))
    for number, parameter in enumerate(net.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, (-1.0) ** number * (number + 1))

    optimizer.step()

    for number, (name, parameter) in enumerate(net.named_parameters()):
        if name == "frozen":
            assert torch.equal(parameter.double(), before[name])
            continue
        decay = 0.5 if parameter.ndim == 2 else 0.0
        wanted = before[name] * (1 - 0.01 * decay) - 0.01 * (-1.0) ** number
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=0, atol=1e-6)
