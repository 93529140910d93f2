"""Controls name another arm by its label: here the label gives way to that arm's mixer.

It happens once, when a spec is read, and the binding is part of a run's identity, so a control of
an arm whose settings change is another run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.api import Mixer


def bound(mixers: Mapping[str, Mixer]) -> dict[str, Mixer]:
    """Return every arm's mixer bound to the others; ValueError starts with the arm's label."""
    found = {}
    for label in mixers:
        try:
            found[label] = _Others(mixers, frozenset())[label]
        except ValueError as error:
            raise ValueError(f"{label}.settings.{error}") from None
    return found


class _Others(Mapping[str, Mixer]):
    """Arms that may still be named: bound when they are asked for, so that a circle has an end."""

    def __init__(self, mixers: Mapping[str, Mixer], excluded: frozenset[str]) -> None:
        self._mixers, self._excluded = mixers, excluded

    def __getitem__(self, label: str) -> Mixer:
        if label in self._excluded:
            raise KeyError(label)
        return self._mixers[label].bind(_Others(self._mixers, self._excluded | {label}))

    def __iter__(self) -> Iterator[str]:
        return (label for label in self._mixers if label not in self._excluded)

    def __len__(self) -> int:
        return sum(1 for _ in self)
