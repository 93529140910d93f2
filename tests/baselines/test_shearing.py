"""LLM-Shearing's dynamic loading against Algorithm 1 of arXiv:2310.06694, two updates by hand."""

from __future__ import annotations

import math

import pytest
import torch

from baselines.shearing import Shearing, ShearingMain
from baselines.static import Static
from tests.doubles import PlanRunner, PlanSpec, ProbedView
from tests.tiny import MakeLoop, MakeSpec, stepped

REFERENCE = {"a": 2.0, "b": 2.0, "c": 2.0}


def after_two_updates(clip: bool) -> list[float]:
    """Return the weights after losses (2 + log 2, 1, 2), then (2, 2, 2 + log 3)."""
    mixer = ShearingMain(reference=REFERENCE, every=5, clip=clip, c=0.0, probe_rows=1)
    view = ProbedView()
    state = mixer.init(view)
    assert torch.equal(mixer.propose(view, state), view.prior)
    for view.step, losses in ((5, [2 + math.log(2), 1.0, 2.0]), (10, [2.0, 2.0, 2 + math.log(3)])):
        view.probe_losses = torch.tensor(losses)
        weights = mixer.propose(view, state)
    return weights.tolist()


def test_domains_behind_their_reference_gain_by_the_exponential_of_the_gap() -> None:
    """(.5, .3, .2) -> (1, .3, .2) / 1.5 -> (1, .3, .6) / 1.9: b is ahead and clipped."""
    assert after_two_updates(clip=True) == pytest.approx([1 / 1.9, 0.3 / 1.9, 0.6 / 1.9])


def test_the_official_code_counts_what_is_ahead() -> None:
    """b is a nat ahead at the first update: it falls by e."""
    raw = [1.0, 0.3 / math.e, 0.6]
    assert after_two_updates(clip=False) == pytest.approx([r / sum(raw) for r in raw])


def test_smoothing_mixes_in_the_uniform_mixture() -> None:
    """c = .3 of 1/3 each."""
    mixer = ShearingMain(reference=REFERENCE, every=5, clip=True, c=0.3, probe_rows=1)
    view = ProbedView(step=5, probe_losses=torch.tensor([2.0, 2.0, 2.0]))

    got = mixer.propose(view, mixer.init(view))

    assert got.tolist() == pytest.approx([0.7 * 0.5 + 0.1, 0.7 * 0.3 + 0.1, 0.7 * 0.2 + 0.1])


def test_the_reference_is_a_natural_run_measured_on_the_probe_set() -> None:
    """Of trained domains alone."""
    run = PlanRunner(losses=lambda weights: {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})

    Shearing().plan(PlanSpec(unseen="d"), run)

    first = run.asked[0]
    assert first.measure_rows == Shearing().probe_rows  # the rows that the main run looks at
    assert (first.label, first.mixer) == ("reference", Static(weights="natural"))
    assert run.main.mixer.reference == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_a_model_that_is_its_own_reference_lags_by_nothing(make_loop: MakeLoop, make_spec: MakeSpec) -> None:  # fmt: skip # noqa: E501
    """The same rows in both places: the weights stay natural to the last digit."""
    spec = make_spec(measure_probes=True, measure_rows=4)
    loop = stepped(make_loop(spec), 3)
    reference = {d: loss for d, loss in loop.measure_probes().items() if d in loop.view.domains}
    mixer = ShearingMain(reference=reference, every=3, clip=False, c=0.0, probe_rows=4)
    state = mixer.init(loop.view)

    got = mixer.propose(loop.view, state)

    assert got.tolist() == pytest.approx(loop.view.prior.tolist(), rel=1e-12)
