"""What a store of leases has to do: look, take by an atomic step, renew, give back.

Every lease of a key has a number, one above the last. Taking is an atomic step from a number that
was seen to the next, which one of any number of takers wins; so a lease is never taken from a
holder who was not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from harness.leases.holder import Holder


class SilentStoreError(OSError):
    """The store does not answer, and may again."""


@dataclass(frozen=True)
class Seen:
    """The last lease of a key, as it was a moment ago."""

    key: str
    number: int
    mark: str
    """What changes with every sign of life."""
    is_free: bool
    """Its holder has given it back."""
    holder: Holder | None
    """None where it has only just been taken."""
    about: str = ""
    """What the holder does with it, for people."""
    age: float | None = None
    """Seconds since its last sign of life by the store's own clock; None where it has none."""


class Store(Protocol):
    """Where leases are kept."""

    def look(self, key: str) -> Seen | None:
        """Return the last lease of a key; None where there has been none."""

    def take(self, key: str, after: int, holder: Holder, about: str) -> Any:
        """Return a ticket for lease number `after` + 1; None where somebody else has taken it."""

    def renew(self, ticket: Any) -> bool:
        """Give a sign of life; false where the lease is another's, OSError where none got there."""

    def give_back(self, ticket: Any) -> None:
        """Free a lease that is still ours."""

    def held(self) -> list[Seen]:
        """Return all leases that nobody has given back."""
