"""Static mixtures against hand-made weights."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from baselines.static import Static
from tests.doubles import FakeView


def weights(mixer: Static, view: FakeView | None = None) -> list[float]:
    """Return the weights that the mixer proposes at step 0."""
    view = view or FakeView()
    return mixer.propose(view, mixer.init(view)).tolist()


def test_uniform_is_one_over_k() -> None:
    """The default gives every domain the same weight."""
    assert weights(Static()) == pytest.approx([1 / 3] * 3)


def test_natural_is_the_token_proportions() -> None:
    """Natural weights are the prior."""
    assert weights(Static(weights="natural")) == pytest.approx([0.5, 0.3, 0.2])


def test_temperature_is_a_power_of_the_proportions() -> None:
    """p_k is proportional to q_k^(1/tau): at tau = 2, square roots."""
    expected = torch.tensor([0.5, 0.3, 0.2]).sqrt()
    got = torch.tensor(weights(Static(weights="natural", temperature=2.0)))

    torch.testing.assert_close(got / got.sum(), expected / expected.sum(), check_dtype=False)


def test_half_on_target_spreads_the_rest_equally() -> None:
    """The target gets its share, every other domain an equal part of what is left."""
    assert weights(Static(weights="target", share=0.5)) == pytest.approx([0.25, 0.25, 0.5])


def test_target_only() -> None:
    """Share 1 trains on the target alone."""
    assert weights(Static(weights="target")) == pytest.approx([0, 0, 1])


def test_two_targets_keep_their_ratio() -> None:
    """Several targets divide the share as the declared target does."""
    view = FakeView(targets=torch.tensor([0.75, 0.25, 0.0]).double())

    assert weights(Static(weights="target", share=0.8), view) == pytest.approx([0.6, 0.2, 0.2])


def test_fixed_weights_leave_out_what_is_not_named() -> None:
    """A domain without a weight is not drawn."""
    assert weights(Static(weights={"a": 3.0, "c": 1.0})) == [3.0, 0.0, 1.0]


@pytest.mark.parametrize("bad", [{"weights": {"a": -1.0}}, {"share": 0.0}, {"temperature": 0.0}])
def test_out_of_range_settings_are_refused(bad: dict[str, object]) -> None:
    """Bad settings never become a mixer."""
    with pytest.raises(ValidationError):
        Static(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        (Static(weights={"zz": 1.0}), "'zz' is no trained domain"),
        (Static(weights={"a": 0.0}), "all are 0"),
        (Static(weights="target"), "the target is not trained on"),
    ],
)
def test_settings_that_do_not_fit_the_spec_are_refused_before_any_run(
    mixer: Static, words: str
) -> None:
    """`check` sees the domains and the target, and says what does not fit."""
    with pytest.raises(ValueError, match=words):
        mixer.check(("a", "b"), {"c": 1.0})


def test_what_is_foreseen_is_what_is_drawn_with() -> None:
    """By every rule, from plain numbers and from the view."""
    view = FakeView()
    prior = dict(zip(view.domains, view.prior.tolist(), strict=True))
    targets = dict(zip(view.probe_domains, view.targets.tolist(), strict=True))
    first = view.domains[0]
    for rule in ("uniform", "natural", "target", {first: 3.0}):
        mixer = Static(weights=rule, temperature=2.0, share=0.5)  # type: ignore[arg-type]
        drawn = mixer.propose(view, mixer.init(view))  # type: ignore[arg-type]

        foreseen = torch.tensor(list(mixer.foresee(prior, targets).values()), dtype=torch.float64)

        torch.testing.assert_close(foreseen, drawn, rtol=0, atol=0)
