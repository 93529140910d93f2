"""The suite catches what it claims to catch: each claim beside a mixer that breaks it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from harness.api import Batch, Mixer, State, View
from harness.domains import uniform
from harness.testing import checks
from harness.testing.world import world


@dataclass(frozen=True)
class HidesState(Mixer):
    """Remembers outside of its state."""

    calls: list[int] = field(default_factory=list)

    def propose(self, view: View, state: State) -> Tensor:
        """Lean towards one domain by the number of calls."""
        self.calls.append(1)
        return torch.softmax(torch.arange(len(view.domains)).double() * len(self.calls), 0)


@dataclass(frozen=True)
class HidesAndClears(Mixer):
    """Remembers outside of its state, and starts over in `init`, which no resumed run calls."""

    calls: list[int] = field(default_factory=list)

    def init(self, view: View) -> State:
        """Forget."""
        self.calls.clear()
        return {}

    def propose(self, view: View, state: State) -> Tensor:
        """Lean towards one domain by the number of calls."""
        self.calls.append(1)
        return torch.softmax(torch.arange(len(view.domains)).double() * len(self.calls), 0)


@dataclass(frozen=True)
class KeptByClass(Mixer):
    """Remembers in its class."""

    memory: ClassVar[dict[str, int]] = {}

    def init(self, view: View) -> State:
        """Forget."""
        self.memory["calls"] = 0
        return {}

    def propose(self, view: View, state: State) -> Tensor:
        """Lean towards one domain by the number of calls."""
        self.memory["calls"] += 1
        return torch.softmax(torch.arange(len(view.domains)).double() * self.memory["calls"], 0)


@dataclass(frozen=True)
class TrainsLonger(Mixer):
    """Gives itself twice the budget."""

    def plan(self, spec: Any, run: Any) -> Any:
        """Train for longer than the arm may."""
        return run(replace(spec, mixer=Mixer(), num_steps=2 * spec.num_steps))


@dataclass(frozen=True)
class PeeksThroughAService(Mixer):
    """Goes from a service to whose it is."""

    def init(self, view: View) -> State:
        """Look behind the window."""
        view.token_losses.__self__.stream  # type: ignore[attr-defined]  # noqa: B018
        return {}


@dataclass(frozen=True)
class Unmasks(Mixer):
    """Changes which targets count."""

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Leave the first row out."""
        batch.mask[0] = False
        return super().observe(view, state, batch, losses)


@dataclass(frozen=True)
class WritesThePrior(Mixer):
    """Scales in place what belongs to the run."""

    def propose(self, view: View, state: State) -> Tensor:
        """Tilt the prior for good."""
        weights = view.prior
        weights[0] *= 2
        return weights


@dataclass(frozen=True)
class TwoMains(Mixer):
    """Asks for two evaluated runs."""

    def plan(self, spec: Any, run: Any) -> Any:
        """Pick the second."""
        run(spec)
        return run(replace(spec, mixer=Mixer(), seed=1))


@dataclass(frozen=True)
class TunesInSecret(Mixer):
    """Asks for the tuning set without saying so."""

    def plan(self, spec: Any, run: Any) -> Any:
        """Look."""
        run(spec.auxiliary("look", mixer=Mixer(), measure_tuning=True))
        return run(replace(spec, mixer=Mixer()))


@dataclass(frozen=True)
class Peeks(Mixer):
    """Reads what no View offers."""

    def init(self, view: View) -> State:
        """Look behind the window."""
        view.stream  # type: ignore[attr-defined]  # noqa: B018
        return {}


@dataclass(frozen=True)
class Trains(Mixer):
    """Changes the model."""

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Nudge a parameter."""
        with torch.no_grad():
            next(view.model.parameters()).add_(1e-3)
        return super().observe(view, state, batch, losses)


@dataclass(frozen=True)
class Rolls(Mixer):
    """Draws from the global generator."""

    def propose(self, view: View, state: State) -> Tensor:
        """Return random weights."""
        return torch.rand(len(view.domains)).double()


@dataclass(frozen=True)
class PaysNothing(Mixer):
    """Computes on the model and reports nothing."""

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Take a forward pass."""
        with torch.no_grad():
            view.model(input_ids=batch.inputs)
        return super().observe(view, state, batch, losses)


@dataclass(frozen=True)
class PaysForNothing(Mixer):
    """Reports what it did not compute."""

    def propose(self, view: View, state: State) -> Tensor:
        """Bill at each step."""
        view.bill(1e6)
        return view.prior


@dataclass(frozen=True)
class Grows(Mixer):
    """Remembers every step."""

    def init(self, view: View) -> State:
        """Start with nothing."""
        return {"seen": torch.zeros(0)}

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Append."""
        state["seen"] = torch.cat([state["seen"], losses.mean()[None]])
        return super().observe(view, state, batch, losses)


@dataclass(frozen=True)
class PrefersTheFirst(Mixer):
    """Gives the first domain more because it is first."""

    def propose(self, view: View, state: State) -> Tensor:
        """Return falling weights."""
        return torch.softmax(-torch.arange(len(view.domains)).double(), 0)


@dataclass(frozen=True)
class DividesByLosses(Mixer):
    """Fails where losses are 0."""

    def init(self, view: View) -> State:
        """Start uniform."""
        return {"weights": uniform(len(view.domains))}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights."""
        return state["weights"]

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Divide."""
        state["weights"] = state["weights"] / losses.mean()
        return super().observe(view, state, batch, losses)


@dataclass(frozen=True)
class KeepsAList(Mixer):
    """Keeps what a checkpoint cannot hold."""

    def init(self, view: View) -> State:
        """Return no tensor."""
        kept: Any = {"weights": [1.0]}
        return kept  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("mixer", "said"),
    [
        (Peeks(), r"view\.stream, which the contract does not offer"),
        (Trains(), "observe at step 0 changes parameters"),
        (Rolls(), "changes torch's generator"),
        (PaysNothing(), "is billed 0"),
        (PaysForNothing(), r"computes 0 operations and is billed 1e\+06"),
        (KeepsAList(), r"state\['weights'\] is list, no tensor"),
        (Unmasks(), "writes to the batch's mask"),
        (PeeksThroughAService(), "has no attribute '__self__'"),
        (WritesThePrior(), "changes the view's own tensors"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Mixer) else "",
)
def test_a_call_that_breaks_the_contract_is_named(mixer: Mixer, said: str, tmp_path: Path) -> None:
    """Method, call, step, and what it did."""
    with pytest.raises(Exception, match=said):
        checks.keeps_the_contract(world(2), mixer, tmp_path)


@pytest.mark.parametrize(
    "mixer",
    [HidesState(), HidesAndClears(), KeptByClass()],
    ids=["in the instance", "cleared by init", "in the class"],
)
def test_hidden_state_does_not_resume(mixer: Mixer, tmp_path: Path) -> None:
    """A frozen dataclass can still hold a list: the resumed run is another one."""
    two = world(2)
    carried = checks.carry_out(two, mixer, tmp_path / "carried")

    with pytest.raises(AssertionError, match="records differ after a stop at step"):
        checks.resumes(carried, carried.specs[0], two, tmp_path)


@pytest.mark.parametrize(
    ("mixer", "said"),
    [
        (TwoMains(), "TwoMains.plan must ask for one run with evaluation"),
        (TunesInSecret(), "TunesInSecret.plan asks for the tuning set; set tunes = True"),
        (TrainsLonger(), "TrainsLonger.plan changes the main run beside its mixer"),
    ],
    ids=["two mains", "tunes", "longer"],
)
def test_a_plan_that_the_runner_refuses_fails(mixer: Mixer, said: str, tmp_path: Path) -> None:
    """As it would in an ablation."""
    with pytest.raises(RuntimeError, match=said):
        checks.runs_as_an_arm(world(2), mixer, tmp_path)


def test_a_growing_state_is_found(tmp_path: Path) -> None:
    """It would be a gigabyte one day."""
    two = world(2)
    carried = checks.carry_out(two, Grows(), tmp_path / "carried")

    with pytest.raises(AssertionError, match="its state grows, from 7 to 12"):
        checks.stays_small(carried, carried.specs[0], two, tmp_path)


def test_a_preference_for_a_place_is_found(tmp_path: Path) -> None:
    """The first domain is another one when the order changes."""
    with pytest.raises(Exception, match="depend on the domains' order"):
        checks.ignores_the_order_of_domains(world(3), PrefersTheFirst(), tmp_path)


def test_a_division_by_zero_is_found(tmp_path: Path) -> None:
    """By the loop itself, which names the domain."""
    with pytest.raises(Exception, match="the weight of domain 'a' is"):
        checks.stands(world(2), DividesByLosses(), tmp_path, "zero losses")
