"""DoGE against Algorithm 1 of arXiv:2310.15393, a step by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from baselines.doge import DoGE, DoGEProxy
from baselines.static import Static
from harness.api import Batch, Direction
from tests.doubles import FakeView, PlanRunner, PlanSpec, batch_of


@dataclass
class GradientView(FakeView):
    """A View whose gradients are given by domain; probes come from domain 2 alone."""

    gradients: dict[int, list[float]] = field(default_factory=dict)
    rate: float = 0.1

    def __post_init__(self) -> None:
        """Set the learning rate."""
        super().__post_init__()
        self.optimizer.param_groups[0]["lr"] = self.rate

    def probes(self, per_domain: int, fixed: bool = False) -> Batch:
        """Return a row of each domain."""
        return batch_of([0, 1, 2])

    def gradient(self, batch: Batch) -> Direction:
        """Return the mean of the domains' gradients, in two parameters."""
        rows = [self.gradients[int(k)] for k in batch.domains]
        mean = torch.tensor(rows).mean(0)
        return {"first": mean[:1], "second": mean[1:]}


def observed(view: GradientView, domains: list[int], state: dict[str, Tensor] | None = None) -> Tensor:  # fmt: skip # noqa: E501
    """Return the loss weights of a batch of the given domains."""
    mixer = DoGEProxy(objective="target", mu=0.05, probe_rows=1)
    state = mixer.init(view) if state is None else state
    return mixer.observe(view, state, batch_of(domains), torch.ones(len(domains), 2))


@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_a_step_by_hand(rate: float) -> None:
    """g_a = (3, 4), g_b = (-1, 0), g_T = g_c = (1, 0); norms 5, 1, 1, mean 7/3, mu .05.

    W = (3, -1, 1); at lr .1 s = .1 W / (7/3), clipped below at 0: (.9/7, 0, .3/7), and
    alpha ~ exp(s / mu) = exp(18/7, 0, 6/7); at lr .02 a fifth of the exponents.
    """
    view = GradientView(gradients={0: [3.0, 4.0], 1: [-1.0, 0.0], 2: [1.0, 0.0]}, rate=rate)

    got = observed(view, [0, 1, 1, 2])

    raw = [math.exp(18 / 7 * rate / 0.1), 1.0, math.exp(6 / 7 * rate / 0.1)]
    alpha = [r / sum(raw) for r in raw]
    # the mean loss of each domain times its alpha: rows of b share theirs
    assert got.tolist() == pytest.approx([alpha[0], alpha[1] / 2, alpha[1] / 2, alpha[2]])


def test_gradients_are_clipped_before_the_product() -> None:
    """(30, 40) has norm 50 and counts as (3, 4), so that the step is the one above."""
    small = GradientView(gradients={0: [3.0, 4.0], 1: [-1.0, 0.0], 2: [1.0, 0.0]})
    large = GradientView(gradients={0: [30.0, 40.0], 1: [-1.0, 0.0], 2: [1.0, 0.0]})

    assert torch.allclose(observed(small, [0, 1, 2]), observed(large, [0, 1, 2]))


def test_a_score_is_at_most_five_rates() -> None:
    """g_a = (5, 0) beside tiny ones: W / mean norm = 25 / 2.5 would be 10."""
    view = GradientView(gradients={0: [5.0, 0.0], 1: [0.0, 0.0], 2: [5.0, 0.0]})
    view.gradients[2] = [5.0, 0.0]
    mixer = DoGEProxy(objective="target", mu=1.0, probe_rows=1)
    state = mixer.init(view)
    view.gradients[1] = [0.01, 0.0]

    mixer.observe(view, state, batch_of([0, 1, 1, 1]), torch.ones(4, 2))

    assert float(state["scores"][0]) == pytest.approx(5 * 0.1)  # not .1 * 25 / 2.505


def test_a_domain_that_is_not_drawn_keeps_its_score() -> None:
    """Its weight follows what is known of it."""
    view = GradientView(gradients={0: [3.0, 4.0], 1: [-1.0, 0.0], 2: [1.0, 0.0]})
    mixer = DoGEProxy(objective="target", mu=0.05, probe_rows=1)
    state = mixer.init(view)
    mixer.observe(view, state, batch_of([0, 1, 2]), torch.ones(3, 2))
    before = state["scores"].clone()

    mixer.observe(view, state, batch_of([1]), torch.ones(1, 2))

    assert torch.equal(state["scores"], before)


def test_the_universal_form_aligns_with_all_trained_domains() -> None:
    """g_T is the mean of the three: ((3 - 1 + 1) / 3, 4 / 3) = (1, 4/3)."""
    view = GradientView(gradients={0: [3.0, 4.0], 1: [-1.0, 0.0], 2: [1.0, 0.0]})
    mixer = DoGEProxy(objective="domains", mu=0.05, probe_rows=1)
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0, 1, 2]), torch.ones(3, 2))

    products = [3 + 16 / 3, -1.0, 1.0]
    wanted = [min(max(0.1 * w / (7 / 3), 0), 0.5) for w in products]
    assert state["scores"].tolist() == pytest.approx(wanted)


def test_the_plan_trains_the_main_run_on_the_mean_and_the_online_form_trains_once() -> None:
    """Algorithm 1 outputs the average; online, the main run is the proxy."""
    run = PlanRunner(state={"alpha_sum": torch.tensor([3.0, 1.0]).double()}, prior=(0.5, 0.5))
    DoGE().plan(PlanSpec(domains="ab"), run)
    once = PlanRunner(prior=(0.5, 0.5))
    DoGE(form="online").plan(PlanSpec(domains="ab"), once)

    assert run.main.mixer == Static(weights={"a": 0.75, "b": 0.25})
    assert isinstance(once.main.mixer, DoGEProxy)
    assert len(once.asked) == 1


def test_a_domain_with_few_counted_targets_has_the_mean_loss_of_those() -> None:
    """Equal alphas: one of c's two targets counts, so its row weighs twice, as its mean demands."""
    view = GradientView(gradients={k: [1.0, 0.0] for k in range(3)})
    mixer = DoGEProxy(objective="target", mu=1e9, probe_rows=1)
    state = mixer.init(view)
    batch = batch_of([0, 1, 2], mask=[[True, True], [True, True], [True, False]])

    weights = mixer.observe(view, state, batch, torch.ones(3, 2))

    scale = weights[:, None] * batch.mask  # as the loop has it
    shares = scale.sum(1) / scale.sum()
    assert shares.tolist() == pytest.approx([1 / 3] * 3)
