"""A process that holds leases: who it is, and whether one on this very machine is gone.

Another machine's process can only be waited for. One that shared our kernel and our process
numbers is looked up in /proc, so that what dies on a machine is taken over there at once.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Holder:
    """One process at work."""

    token: str
    """Of this process alone: 32 hex digits."""
    machine: str
    """The same for processes that can see each other; empty where that cannot be told."""
    host: str
    pid: int
    born: str
    """When the process began, in ticks of its kernel: a number may be given out again."""

    @classmethod
    def here(cls) -> Holder:
        """Return this process, as one that may hold leases."""
        pid = os.getpid()
        return cls(uuid4().hex, machine(), socket.gethostname(), pid, _born(pid))

    @classmethod
    def read(cls, value: Any) -> Holder | None:
        """Return the holder that a store's JSON value tells of; None where it tells of none."""
        try:
            return cls(**value)
        except TypeError:
            return None

    @property
    def plain(self) -> dict[str, Any]:
        """Return the holder as a JSON value."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """Tell whether the process ran on this machine, and runs no more."""
        return bool(self.machine) and self.machine == machine() and _born(self.pid) != self.born

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


def machine() -> str:
    """Return what this boot of this kernel and this space of process numbers are called."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Return a living process's time of birth; empty where there is no such process."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = told.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return "" if fields[0] in "ZX" else fields[19]  # dead, and not yet waited for
