"""Where the leases of an output folder are kept: in the folder, or in a database that it names.

Workers that looked in two places would train a run twice. So the first who brings a database writes
it down in the folder, and who comes with another, or with none, is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.leases.disk import DiskStore
from harness.leases.leases import GRACE_SECONDS, Leases

FOLDER = "leases"
VARIABLE = "STEELYARD_LEASES"
MIN_GRACE_SECONDS = 1.0
_POLL_SECONDS = 0.05


def disk_leases(out: Path, grace: float = GRACE_SECONDS) -> Leases:
    """Return the leases that lie in an output folder."""
    return Leases(DiskStore(out / FOLDER), grace)


@contextmanager
def being_made(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lease of something that lies at `path` when it is made, wherever that is."""
    leases, key = Leases(DiskStore(path.parent)), f"{path.name}.lease"
    lease = leases.take(key)
    if lease is None:
        on_wait()
        with leases.held(key, poll=_POLL_SECONDS):
            yield
        return
    try:
        yield
    finally:
        lease.give_back()


def open_leases(out: Path, url: str | None = None, grace: float = GRACE_SECONDS) -> Leases:
    """Return the leases of an output folder; `url`, or STEELYARD_LEASES, is that of a database.

    SpecError where the folder's are kept elsewhere, or the database does not answer.
    """
    if not grace >= MIN_GRACE_SECONDS:
        raise SpecError(f"--grace: must be at least {MIN_GRACE_SECONDS:g} seconds, got {grace:g}")
    url = url or os.environ.get(VARIABLE)
    place = out / FOLDER / "database.json"
    if url is None:
        known = read_json(place)
        if known is not None:
            raise SpecError(f"{out}: its leases are in {known['url']}; give --leases or {VARIABLE}")
        return disk_leases(out, grace)
    try:
        from harness.leases.database import open_database, shown
    except ImportError as error:
        fix = 'pip install "steelyard[sweeps]"'
        raise SpecError(f"--leases: a database needs {error.name}; {fix}") from None

    told = shown(url)
    with disk_leases(out).held("database", poll=_POLL_SECONDS):
        known = read_json(place)
        if known is None and any((out / FOLDER).glob("run-*")):
            what = f"{out}: its leases are files in it; leave out --leases and {VARIABLE}"
            raise SpecError(f"{what}, or take another --out")
        if known is not None and known["url"] != told:
            raise SpecError(f"{out}: its leases are in {known['url']}; give it by --leases")
        store = open_database(url, (known or {}).get("scope") or uuid4().hex)
        if known is None:
            write_json(place, {"url": told, "scope": store.scope})
    return Leases(store, grace)
