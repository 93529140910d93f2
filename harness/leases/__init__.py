"""Who may train a run: one worker at a time, of any number on any number of machines.

A lease is taken by an atomic step of its store (files on a shared disk, or a database), kept by a
sign of life every few seconds, and given back. A worker that dies gives nothing back: whoever has
seen no new sign of life for the grace, by a clock of their own, takes the lease over. No clock of
another machine is ever read, and no lock of the operating system is trusted.
"""

from __future__ import annotations

from harness.leases.holder import Holder
from harness.leases.leases import GRACE_SECONDS, Lease, Leases, TakenError
from harness.leases.opening import FOLDER, being_made, disk_leases, open_leases
from harness.leases.store import Seen

__all__ = [
    "FOLDER",
    "GRACE_SECONDS",
    "Holder",
    "Lease",
    "Leases",
    "Seen",
    "TakenError",
    "being_made",
    "disk_leases",
    "open_leases",
]
