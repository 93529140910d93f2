"""Methods that go wrong on purpose. Each draws uniformly, so that what it survives can be compared.

They live outside the project, as a user's own method would: found on PYTHONPATH and named
`misbehaving:Class` in a spec. Paths are settings, since a worker shares nothing else with a test.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from baselines.influence import Influence
from baselines.static import Static
from harness.api import Mixer
from harness.domains import uniform
from harness.influence import directional_forms

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Raises(Mixer):
    """Fails at a step, with a message that a terminal's markup could trip over."""

    step: int = 5

    def propose(self, view: View, state: State) -> Tensor:
        """Raise when it is time."""
        if view.step == self.step:
            raise ValueError(f"no weights [/bold] at step {view.step}\nand a second line")
        return uniform(len(view.domains))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dies(Mixer):
    """Kills its own process at a step, as the kernel does where memory runs out."""

    log: str
    """A line for each death."""
    step: int = 5
    times: int = 1000

    def propose(self, view: View, state: State) -> Tensor:
        """Die when it is time, unless it has died often enough."""
        log = Path(self.log)
        deaths = len(log.read_text().splitlines()) if log.exists() else 0
        if view.step == self.step and deaths < self.times:
            with log.open("a") as file:
                file.write("died\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return uniform(len(view.domains))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stumbles(Mixer):
    """Fails at a step for as long as a file is there: everywhere, or on one rank alone."""

    stone: str
    step: int = 8
    rank: str | None = None

    def propose(self, view: View, state: State) -> Tensor:
        """Raise when it is time."""
        here = self.rank in (None, os.environ.get("RANK"))
        if view.step == self.step and here and Path(self.stone).exists():
            raise MemoryError(f"stumbled at step {view.step}")
        return uniform(len(view.domains))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distrusts(Influence):
    """Influence that trusts no finite difference, so that the exact form takes over."""

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K] by exact derivatives."""
        with patch.object(directional_forms, "AGREEMENT", 0.0):
            return super().propose(view, state)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Waits(Mixer):
    """Stops at a step until a file appears, so that a test can act in the middle of a run."""

    gate: str
    """The run goes on once this file exists; `gate`.waiting tells that it has come this far."""
    lines: int = 0
    """So many lines must be in the file, too."""
    step: int = 5

    def propose(self, view: View, state: State) -> Tensor:
        """Wait when it is time."""
        if view.step == self.step and not self._is_open():
            Path(f"{self.gate}.waiting").touch()
            while not self._is_open():
                time.sleep(0.01)
        return uniform(len(view.domains))

    def _is_open(self) -> bool:
        gate = Path(self.gate)
        return gate.exists() and len(gate.read_text().splitlines()) >= self.lines


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WaitsAndRaises(Waits):
    """Fails at a step once the file appears, and adds a line to it."""

    def propose(self, view: View, state: State) -> Tensor:
        """Wait and raise when it is time."""
        weights = super().propose(view, state)
        if view.step == self.step:
            with Path(self.gate).open("a") as file:
                file.write("raised\n")
            raise ValueError(f"it is step {view.step}")
        return weights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Counted(Mixer):
    """Writes down every step that it is asked for."""

    log: str

    def propose(self, view: View, state: State) -> Tensor:
        """Append the step, in one write, which concurrent processes cannot tear."""
        with Path(self.log).open("ab", buffering=0) as file:
            file.write(f"{view.step}\n".encode())
        return uniform(len(view.domains))


@dataclass(frozen=True)
class LooksAtNoArm(Mixer):
    """Wants runs for free."""

    def others(self) -> tuple[Mixer, ...]:
        """Return what no arm pays for."""
        return (Static(weights={"a": 1.0}),)


@dataclass(frozen=True)
class BindsBadly(Mixer):
    """Asks for an arm without looking whether it is there."""

    def bind(self, arms: Mapping[str, Mixer]) -> Mixer:
        """Fail as a dictionary does."""
        return arms["nobody"]
