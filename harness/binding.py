"""Controls name another arm by its label: here the label gives way to that arm's mixer.

It happens once, when a spec is read, and the binding is part of a run's identity, so a control of
an arm whose settings change is another run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.api import Mixer


class BindingError(ValueError):
    """A label that cannot be replaced; the message starts with the arm that names it."""


def bound(mixers: Mapping[str, Mixer]) -> dict[str, Mixer]:
    """Return every arm's mixer bound to the others."""
    return {label: _Others(mixers, frozenset())[label] for label in mixers}


class _Others(Mapping[str, Mixer]):
    """Arms that may still be named: bound when they are asked for, so that a circle has an end."""

    def __init__(self, mixers: Mapping[str, Mixer], excluded: frozenset[str]) -> None:
        self._mixers, self._excluded = mixers, excluded

    def __getitem__(self, label: str) -> Mixer:
        if label not in self:
            raise KeyError(label)
        try:
            mixer = self._mixers[label].bind(_Others(self._mixers, self._excluded | {label}))
        except BindingError:
            raise  # of an arm that this one names
        except KeyError as error:
            raise BindingError(f"{label}.settings: {error} is no other arm") from None
        except Exception as error:  # whatever a user's own bind does
            raise BindingError(f"{label}.settings.{error}") from None
        if not isinstance(mixer, Mixer):
            kind = type(mixer).__name__
            raise BindingError(f"{label}.method: its bind returns {kind}, which is no Mixer")
        return mixer

    def __contains__(self, label: object) -> bool:
        return label in self._mixers and label not in self._excluded

    def __iter__(self) -> Iterator[str]:
        return (label for label in self._mixers if label not in self._excluded)

    def __len__(self) -> int:
        return sum(1 for _ in self)
