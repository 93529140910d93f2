"""DoReMi against Algorithm 1 of arXiv:2305.10429, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from baselines.doremi import DoReMi, DoReMiProxy
from baselines.static import Static
from harness.spec import Model
from tests.doubles import FakeView, PlanRunner, PlanSpec, batch_of

TWO = ("a", "b")


def proxy_view(reference: list[list[float]]) -> FakeView:
    """Return a view of two domains with the given reference losses [B, T]."""
    return FakeView(domains=TWO, probe_domains=TWO, reference_losses=torch.tensor(reference))


def test_excess_is_clipped_per_token_before_the_mean() -> None:
    """Domain a: excess +2 and -2 give a mean of 1, not 0; domain b: +0.5 twice gives 0.5.

    alpha' = softmax(log 1/2 + [1, .5]), then smoothing by c = 1e-3.
    """
    view = proxy_view([[1.0, 3.0], [1.0, 1.0]])
    mixer = DoReMiProxy(eta=1.0, c=1e-3, reference="r")
    state = mixer.init(view)

    got = mixer.observe(view, state, batch_of([0, 1]), torch.tensor([[3.0, 1.0], [1.5, 1.5]]))

    raw_a = math.exp(1.0) / (math.exp(1.0) + math.exp(0.5))
    alpha_a = (1 - 1e-3) * raw_a + 1e-3 / 2
    assert state["excess"].tolist() == pytest.approx([1.0, 0.5])
    assert state["alpha"].tolist() == pytest.approx([alpha_a, 1 - alpha_a])
    # the new alpha over the uniform sampling weight of 1/2
    assert got.tolist() == pytest.approx([2 * alpha_a, 2 * (1 - alpha_a)])


def test_a_domain_that_is_not_in_the_batch_keeps_its_last_excess() -> None:
    """Before its first row a domain counts with log vocabulary, later with its last value."""
    view = proxy_view([[1.0, 1.0]])
    mixer = DoReMiProxy(eta=1.0, c=0.0, reference="r")
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0]), torch.tensor([[1.5, 1.5]]))
    assert state["excess"].tolist() == pytest.approx([0.5, math.log(16)])

    mixer.observe(view, state, batch_of([1]), torch.tensor([[1.2, 1.2]]))
    assert state["excess"].tolist() == pytest.approx([0.5, 0.2])


def test_masked_tokens_do_not_count() -> None:
    """The mean is over counted tokens alone."""
    view = proxy_view([[1.0, 0.0], [1.0, 1.0]])
    mixer = DoReMiProxy(eta=1.0, c=0.0, reference="r")
    state = mixer.init(view)
    batch = batch_of([0, 1], mask=[[True, False], [True, True]])

    mixer.observe(view, state, batch, torch.tensor([[3.0, 0.0], [1.0, 1.0]]))

    assert state["excess"].tolist() == pytest.approx([2.0, 0.0])


def test_output_is_the_mean_of_alpha_over_all_steps_the_first_included() -> None:
    """After one update, alpha_sum holds the uniform start and the new alpha."""
    view = proxy_view([[0.0, 0.0], [0.0, 0.0]])
    mixer = DoReMiProxy(eta=1.0, c=1e-3, reference="r")
    state = mixer.init(view)

    mixer.observe(view, state, batch_of([0, 1]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))

    torch.testing.assert_close(state["alpha_sum"], 0.5 + state["alpha"])


def test_a_vanished_weight_recovers() -> None:
    """Smoothing keeps alpha positive, so that its logarithm stays finite under extreme losses."""
    view = proxy_view([[0.0, 0.0], [0.0, 0.0]])
    mixer = DoReMiProxy(eta=1.0, c=1e-3, reference="r")
    state = mixer.init(view)
    for _ in range(50):
        mixer.observe(view, state, batch_of([0, 1]), torch.tensor([[1e4, 1e4], [0.0, 0.0]]))

    assert state["alpha"].tolist() == pytest.approx([1 - 5e-4, 5e-4])


def test_the_plan_is_reference_then_proxy_then_static_at_the_mean_alpha() -> None:
    """Three runs in order; the proxy knows the reference, the main run resamples statically."""
    run = PlanRunner(state={"alpha_sum": torch.tensor([3.0, 1.0]).double()}, prior=(0.5, 0.5))

    DoReMi(eta=0.5).plan(PlanSpec(domains="ab"), run)

    reference, proxy, main = run.asked
    assert (reference.mixer, reference.is_evaluated) == (Static(weights="natural"), False)
    assert proxy.mixer == DoReMiProxy(eta=0.5, c=1e-3, reference="run1")
    assert (proxy.label, proxy.is_evaluated) == ("proxy", False)
    assert main.mixer == Static(weights={"a": 0.75, "b": 0.25})
    assert main.is_evaluated


def test_a_second_round_refers_to_the_mean_of_the_first() -> None:
    """Section 3.1: the optimised weights become the reference weights."""
    run = PlanRunner(state={"alpha_sum": torch.tensor([3.0, 1.0]).double()}, prior=(0.5, 0.5))

    DoReMi(rounds=2, proxy_steps=7).plan(PlanSpec(domains="ab"), run)

    labels = [spec.label for spec in run.asked]
    assert labels == ["reference 1", "proxy 1", "reference 2", "proxy 2", ""]
    assert run.asked[2].mixer == Static(weights={"a": 0.75, "b": 0.25})
    assert run.asked[3].mixer.reference == "run3"
    assert [spec.num_steps for spec in run.asked] == [7, 7, 7, 7, 100]


@pytest.mark.parametrize(
    ("variant", "excess", "eta"),
    [
        ("paper", [1.0, 0.5], 1.0),
        ("eta_0.1", [1.0, 0.5], 0.1),
        ("eta_0.01", [1.0, 0.5], 0.01),
        ("domain_clip", [0.0, 0.5], 1.0),
        ("domain_clip_eta_0.1", [0.0, 0.5], 0.1),
        ("domain_clip_eta_0.01", [0.0, 0.5], 0.01),
    ],
)
def test_variants_do_what_copies_do(variant: Any, excess: list[float], eta: float) -> None:
    """Excess +2 and -2 in domain a: a copy that averages first sees nothing there."""
    run = PlanRunner(state={"alpha_sum": torch.ones(2).double()}, prior=(0.5, 0.5))
    DoReMi(variant=variant).plan(PlanSpec(domains="ab"), run)
    proxy = run.asked[1].mixer
    view = proxy_view([[1.0, 3.0], [1.0, 1.0]])
    state = proxy.init(view)

    proxy.observe(view, state, batch_of([0, 1]), torch.tensor([[3.0, 1.0], [1.5, 1.5]]))

    odds = math.exp(eta * (excess[0] - excess[1]))
    alpha_a = (1 - 1e-3) * odds / (1 + odds) + 1e-3 / 2
    assert state["excess"].tolist() == pytest.approx(excess)
    assert float(state["alpha"][0]) == pytest.approx(alpha_a)


def test_a_proxy_size_beside_a_model_that_brings_its_own_is_refused() -> None:
    """It would be ignored, and the proxy as large as the model."""
    spec = PlanSpec(model=Model(source="a-folder"))

    with pytest.raises(ValueError, match=r"proxy_size: model\.source brings its own size"):
        DoReMi(proxy_size="nano").plan(spec, PlanRunner())
