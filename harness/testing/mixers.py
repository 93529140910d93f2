"""The suite that a mixing method must pass; see harness/testing/__init__.py for its five lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from harness.api import Mixer
from harness.testing import checks
from harness.testing.world import World, world


class MixerContract:
    """Derive a class, name the mixer, and pytest holds it to the contract."""

    mixer: ClassVar[Mixer]
    """What is tested, with settings that make it act within twelve steps of eight rows."""
    arms: ClassVar[Mapping[str, Mixer]] = {}
    """Other arms, where the mixer names one."""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls) -> Mixer:
        """Return the mixer, bound to the arms."""
        return checks.settled(cls.mixer, cls.arms)

    @pytest.fixture(scope="class")
    @classmethod
    def two(cls) -> World:
        """Return a world of two trained domains."""
        return world(2)

    @pytest.fixture(scope="class")
    @classmethod
    def carried(
        cls, tested: Mixer, two: World, tmp_path_factory: pytest.TempPathFactory
    ) -> checks.Carried:
        """Return the plan, carried out in that world."""
        return checks.carry_out(two, tested, tmp_path_factory.mktemp("carried"))

    def test_it_runs_as_an_arm(self, tested: Mixer, two: World, tmp_path: Path) -> None:
        """The runner accepts its settings and its plan."""
        checks.runs_as_an_arm(two, tested, tmp_path)

    @pytest.mark.parametrize("num_domains", [1, 2, 5])
    def test_every_call_keeps_the_contract(
        self, tested: Mixer, num_domains: int, tmp_path: Path
    ) -> None:
        """With any number of domains: services alone, nothing changed, what was done billed."""
        checks.keeps_the_contract(world(num_domains), tested, tmp_path)

    @pytest.mark.parametrize("surprise", checks.SURPRISES)
    def test_it_stands_what_it_may_be_told(
        self, tested: Mixer, two: World, surprise: str, tmp_path: Path
    ) -> None:
        """Weights stay finite and on the simplex."""
        checks.stands(two, tested, tmp_path, surprise)

    def test_the_order_of_domains_does_not_matter(self, tested: Mixer, tmp_path: Path) -> None:
        """A domain's weight goes with it to another place."""
        checks.ignores_the_order_of_domains(world(3), tested, tmp_path)

    def test_it_resumes_in_equal_bits(
        self, carried: checks.Carried, two: World, tmp_path: Path
    ) -> None:
        """At 0, in the middle of whatever it does, and before the last step."""
        for i, spec in enumerate(checks.distinct(carried)):
            checks.resumes(carried, spec, two, tmp_path / str(i))

    def test_its_state_does_not_grow(
        self, carried: checks.Carried, two: World, tmp_path: Path
    ) -> None:
        """Not with every step: what it needs for a run's length is there from the start."""
        for i, spec in enumerate(checks.distinct(carried)):
            checks.stays_small(carried, spec, two, tmp_path / str(i))

    def test_another_process_agrees(
        self, tested: Mixer, two: World, carried: checks.Carried, tmp_path: Path
    ) -> None:
        """The same id, the same weights."""
        checks.agrees_elsewhere(two, tested, tmp_path, carried.main)
