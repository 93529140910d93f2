"""Leases taken, kept and given back by one process.

Whoever holds a lease renews it from a thread and asks before what cannot be undone (`check`): a
process that was asleep for longer than the grace finds that its lease is gone, and stops. Whoever
wants one watches whether its sign of life changes, by the time since boot of their own machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from harness.leases.holder import Holder
from harness.leases.store import Seen, SilentStoreError, Store

GRACE_SECONDS = 60.0
BEATS = 6  # signs of life within the grace
POLL_SECONDS = 0.5


class TakenError(Exception):
    """What was asked for is another worker's, now or since ours fell silent."""


class Leases:
    """One process's leases of one store."""

    def __init__(self, store: Store, grace: float = GRACE_SECONDS) -> None:
        """Believe a holder dead who has given no sign of life for `grace` seconds."""
        self.store, self.grace, self.holder = store, grace, Holder.here()
        self.trouble = ""
        self._watched: dict[str, tuple[int, str, float]] = {}
        self._dead: set[str] = set()

    def take(self, key: str, about: str = "") -> Lease | None:
        """Return a lease, to be given back; None where somebody has it who may be alive.

        A store that does not answer gives none either, and `trouble` then says why.
        """
        try:
            lease, self.trouble = self._take(key, about), ""
        except SilentStoreError as error:
            lease, self.trouble = None, f"leases: the database does not answer: {error}; waiting"
        return lease

    def _take(self, key: str, about: str) -> Lease | None:
        seen = self.store.look(key)
        if seen is not None and not self._is_open(seen):
            return None
        number = seen.number if seen is not None else 0
        ticket = self.store.take(key, number, self.holder, about)
        if ticket is None:
            return None
        self._watched.pop(key, None)
        return Lease(self, key, ticket, is_inherited=seen is not None and not seen.is_free)

    @contextmanager
    def held(
        self,
        key: str,
        about: str = "",
        waits: bool = True,
        stop: Callable[[], bool] = lambda: False,
        poll: float = POLL_SECONDS,
    ) -> Iterator[Lease]:
        """Hold a lease; TakenError where another has it, and `waits` is false or `stop` says so."""
        while (lease := self.take(key, about)) is None:
            if not waits or stop():
                raise TakenError(key)
            time.sleep(poll)
        try:
            yield lease
        finally:
            lease.give_back()

    def _is_open(self, seen: Seen) -> bool:
        """Tell whether a lease was given back, or its holder is dead."""
        if seen.is_free:
            return True
        if seen.holder is not None and seen.holder.is_gone:
            return True
        token = "" if seen.holder is None else seen.holder.token
        now = clock()
        *known, since = self._watched.get(seen.key, (0, "", now))
        if known != [seen.number, seen.mark]:
            self._watched[seen.key] = seen.number, seen.mark, now
            if known[0] == seen.number:
                self._dead.discard(token)  # it was asleep
            return False
        # of one that is believed dead for another lease, the silence of two beats is enough
        if now - since < (2 * self.grace / BEATS if token in self._dead else self.grace):
            return False
        if token:
            self._dead.add(token)
        return True


class Lease:
    """A lease that this process has, until it is given back or found lost."""

    def __init__(self, leases: Leases, key: str, ticket: Any, is_inherited: bool) -> None:
        self.key, self.is_inherited = key, is_inherited
        """`is_inherited`: its last holder has not given it back, and may not know that it died."""
        self._store, self._ticket, self._grace = leases.store, ticket, leases.grace
        self._turn, self._over = threading.Lock(), threading.Event()
        self._renewed, self._is_lost = clock(), False
        self._thread = threading.Thread(target=self._beat, name=f"lease-{key}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise TakenError where another worker may have the lease by now."""
        if clock() - self._renewed > self._grace / 2:
            with suppress(OSError):
                self._renew()
        if self._is_lost or clock() - self._renewed > self._grace:
            self._is_lost = True
            raise TakenError(f"{self.key}: its lease has gone to another worker")

    def is_ours(self) -> bool:
        """Ask the store whether the lease is ours still."""
        with suppress(OSError):
            self._renew()
        try:
            self.check()
        except TakenError:
            return False
        return True

    def give_back(self) -> None:
        """Let others have it."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):  # it will expire
            self._store.give_back(self._ticket)

    def _beat(self) -> None:
        while not self._over.wait(self._grace / BEATS) and not self._is_lost:
            with suppress(OSError):  # the next one may get through
                self._renew()

    def _renew(self) -> None:
        with self._turn:
            start = clock()
            if self._store.renew(self._ticket):
                self._renewed = start
            else:
                self._is_lost = True


def clock() -> float:
    """Return seconds since boot, those of sleep included where the system tells them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
