"""One holder at a time, in either store: what a dead one held is had, a live one's is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from harness.errors import SpecError
from harness.leases import Holder, Leases, Seen, TakenError, disk, leases, open_leases
from harness.leases.database import open_database
from harness.leases.disk import DiskStore
from harness.leases.store import Store
from harness.testing import world

ROOT = Path(world.__file__).parents[2]
GRACE = 1.2

Open = Callable[[float], Leases]
"""Return the leases of one more process."""


@pytest.fixture(params=["disk", "sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Return the database of the output folder `tmp_path`, if its leases are in one."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres")())
    return None if request.param == "disk" else f"sqlite:///{tmp_path / 'leases.db'}"


@pytest.fixture
def another(where: str | None, tmp_path: Path) -> Open:
    """Return a function that opens the same leases for one more process."""
    return lambda grace: open_leases(tmp_path, where, grace)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in place of the leases' own."""
    made = Clock()
    monkeypatch.setattr(leases, "clock", made)
    return made


def abroad() -> Holder:
    """Return a process of another machine: whether it lives cannot be looked up."""
    return replace(Holder.here(), machine="another", host="far", pid=1)


def silent(store: Store, key: str = "run-a", holder: Holder | None = None) -> object:
    """Take a lease for a process of another machine that gives no sign of life."""
    ticket = store.take(key, 0, holder or abroad(), "uniform seed 0")
    assert ticket is not None
    return ticket


def take_after(seen: Seen | None, one: Leases) -> Any:
    """Take the lease after the one that was seen."""
    return one.store.take("run-a", seen.number if seen else 0, one.holder, "")


def test_a_lease_is_held_by_one_until_it_is_given_back(another: Open) -> None:
    ours, theirs = another(60), another(60)

    held = ours.take("run-a", "uniform seed 0")
    assert held is not None
    assert not held.is_inherited
    assert theirs.take("run-a") is None
    assert ours.take("run-a") is None
    (seen,) = theirs.store.held()
    assert (seen.key, seen.about, seen.holder) == ("run-a", "uniform seed 0", ours.holder)
    assert seen.age is not None
    assert 0 <= seen.age < 60
    held.give_back()

    assert theirs.store.held() == []
    next_one = theirs.take("run-a")
    assert next_one is not None
    assert not next_one.is_inherited
    next_one.give_back()


def test_of_many_takers_one_gets_it(another: Open) -> None:
    """All have looked, and all take what they have seen; four times, with a lease before or not."""
    for _ in range(4):
        takers = [another(60) for _ in range(6)]
        seen = takers[0].store.look("run-a")
        with ThreadPoolExecutor(len(takers)) as pool:
            tickets = list(pool.map(partial(take_after, seen), takers))

        ((winner, ticket),) = [pair for pair in zip(takers, tickets, strict=True) if pair[1]]
        winner.store.give_back(ticket)


def test_a_silent_holder_of_another_machine_is_waited_for_and_then_taken_over(
    another: Open, clock: Clock
) -> None:
    """The grace counts from when the taker first looked, and starts anew with a sign of life."""
    ours = another(60)
    ticket = silent(ours.store)

    for clock.now, renews in ((0, False), (59, False), (70, True), (129, False), (131, False)):
        if renews:
            assert ours.store.renew(ticket)
        lease = ours.take("run-a")
        assert (lease is not None) == (clock.now == 131), clock.now

    assert lease is not None
    assert lease.is_inherited
    assert not ours.store.renew(ticket)
    ours.store.give_back(ticket)  # comes too late, and frees nothing
    assert [seen.holder for seen in ours.store.held()] == [ours.holder]
    lease.give_back()


def test_what_else_a_dead_holder_held_is_had_after_two_beats(another: Open, clock: Clock) -> None:
    ours, dead = another(60), abroad()
    for key in ("plan-a", "run-a"):
        silent(ours.store, key, dead)
    silent(ours.store, "run-b", abroad())
    assert ours.take("plan-a") is None
    had = []

    for clock.now in (61, 80, 82):
        taken = {key: ours.take(key) for key in ("plan-a", "run-a", "run-b") if key not in had}
        had += [key for key, lease in taken.items() if lease is not None]
        assert had == (["plan-a"] if clock.now < 82 else ["plan-a", "run-a"])


def test_who_was_believed_dead_and_wakes_up_keeps_what_it_takes_next(
    another: Open, clock: Clock
) -> None:
    sleeper, ours = another(60), another(60)
    sleeper.holder = abroad()
    first = sleeper.take("run-a")
    assert first is not None
    assert ours.take("run-a") is None
    clock.now = 61
    assert ours.take("run-a") is not None
    with pytest.raises(TakenError):
        first.check()
    second = sleeper.take("run-b")
    assert second is not None

    for clock.now in range(62, 162, 10):
        assert second.is_ours()
        assert ours.take("run-b") is None
    for clock.now in (170, 211):  # it is believed alive again: two beats are not enough
        assert ours.take("run-b") is None
    clock.now = 213
    assert ours.take("run-b") is not None


def test_no_clock_of_another_machine_is_read(tmp_path: Path, clock: Clock) -> None:
    """A lease whose file is a year old is no more believed dead than one of next year."""
    ours = open_leases(tmp_path)
    silent(ours.store)
    (path,) = (tmp_path / "leases/run-a").iterdir()
    for year in (-1, 1):
        then = time.time() + year * 365 * 86_400
        os.utime(path, (then, then))

        assert ours.take("run-a") is None


def test_a_holder_that_lives_keeps_its_lease(another: Open) -> None:
    """By real time, over more than the grace, with nobody but its thread to renew it."""
    ours, theirs = another(GRACE), another(GRACE)
    theirs.holder = abroad()
    lease = theirs.take("run-a")
    assert lease is not None

    deadline = time.monotonic() + 2 * GRACE
    while time.monotonic() < deadline:
        assert ours.take("run-a") is None
        time.sleep(0.1)
    lease.check()
    assert lease.is_ours()
    lease.give_back()


def test_who_slept_for_longer_than_the_grace_finds_the_lease_gone(
    another: Open, clock: Clock
) -> None:
    """Another has it by then; asked after the next step, the sleeper is told and stops."""
    sleeper, ours = another(60), another(60)
    sleeper.holder = abroad()
    lease = sleeper.take("run-a")
    assert lease is not None
    assert ours.take("run-a") is None
    clock.now = 61
    taken = ours.take("run-a")
    assert taken is not None
    assert taken.is_inherited

    with pytest.raises(TakenError, match="run-a"):
        lease.check()
    assert not lease.is_ours()
    lease.give_back()

    assert taken.is_ours()
    taken.give_back()


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(
    another: Open, where: str | None, tmp_path: Path
) -> None:
    """Its number and its time of birth are looked up, so the grace does not matter."""
    script = (
        "import os, signal, sys; from pathlib import Path; from harness.leases import open_leases;"
        f"l = open_leases(Path({str(tmp_path)!r}), {where!r}).take('run-a'); assert l;"
        "print('taken', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    ours = another(3600)
    assert ours.take("run-a") is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.communicate()

    lease = ours.take("run-a")

    assert lease is not None
    assert lease.is_inherited
    lease.give_back()


def test_a_wait_ends_with_the_lease_or_when_it_is_called_off(another: Open) -> None:
    ours, theirs = another(60), another(60)
    held = theirs.take("run-a")
    assert held is not None
    with pytest.raises(TakenError), ours.held("run-a", waits=False):
        pass
    with pytest.raises(TakenError), ours.held("run-a", stop=lambda: True):
        pass
    threading.Timer(0.2, held.give_back).start()

    with ours.held("run-a", poll=0.02) as lease:
        assert lease.is_ours()
    assert ours.store.held() == []


def test_a_lease_file_that_is_not_written_yet_is_somebodys(tmp_path: Path, clock: Clock) -> None:
    """A taker may die between the file and its content; then the grace ends it."""
    ours = open_leases(tmp_path)
    folder = tmp_path / "leases/run-a"
    folder.mkdir(parents=True)
    (folder / "00000003").touch()

    assert ours.take("run-a") is None
    clock.now = 61
    lease = ours.take("run-a")

    assert lease is not None
    assert [path.name for path in folder.iterdir()] == ["00000004"]
    lease.give_back()


def test_a_lease_that_is_taken_between_a_look_at_the_folder_and_its_file_is_somebodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number 1 is free again by then, but nobody may have it: the last one is number 4."""
    ours, theirs = open_leases(tmp_path), open_leases(tmp_path)
    for _ in range(3):
        lease = theirs.take("run-a")
        assert lease is not None
        lease.give_back()
    had = []
    real = disk._read

    def read(*arguments: Any) -> Any:
        if not had:
            had.append(None)
            had[0] = theirs.take("run-a")
        return real(*arguments)

    monkeypatch.setattr(disk, "_read", read)
    assert ours.take("run-a") is None
    assert ours.store.take("run-a", 0, ours.holder, "") is None

    assert had[0].is_ours()
    assert [path.name for path in (tmp_path / "leases/run-a").iterdir()] == ["00000004"]
    had[0].give_back()


def test_the_highest_number_counts_where_a_taker_died_before_it_tidied_up(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    first = silent(store)
    (tmp_path / "run-a/00000002").touch()
    (tmp_path / "run-a/.nfs0001").touch()

    seen = store.look("run-a")

    assert seen is not None
    assert (seen.number, seen.is_free) == (2, False)
    assert not store.renew(first)  # type: ignore[arg-type]


def test_a_database_that_does_not_answer_gives_nothing_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'leases.db'}"
    ours = open_leases(tmp_path, url)
    lease = ours.take("run-a")
    assert lease is not None
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("alter table steelyard_leases rename to gone"))

    assert ours.take("run-b") is None
    assert "no such table" in ours.trouble
    lease.check()  # for the rest of its grace
    with engine.begin() as connection:
        connection.execute(text("alter table gone rename to steelyard_leases"))
    other = ours.take("run-b")

    assert other is not None
    assert ours.trouble == ""
    assert lease.is_ours()
    for one in (lease, other):
        one.give_back()


def test_all_workers_of_a_folder_look_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes with another database, or with none, would train a run twice."""
    url = f"sqlite:///{tmp_path / 'leases.db'}"
    open_leases(tmp_path, url)

    with pytest.raises(SpecError, match=r"leases are in sqlite:.*give --leases"):
        open_leases(tmp_path)
    with pytest.raises(SpecError, match=r"leases are in sqlite:.*give it by --leases"):
        open_leases(tmp_path, f"sqlite:///{tmp_path / 'other.db'}")
    monkeypatch.setenv("STEELYARD_LEASES", url)
    lease = open_leases(tmp_path).take("run-a")
    assert lease is not None
    lease.give_back()

    monkeypatch.delenv("STEELYARD_LEASES")
    in_files = open_leases(tmp_path / "files")
    lease = in_files.take("run-a")
    assert lease is not None
    lease.give_back()
    with pytest.raises(SpecError, match="its leases are files in it"):
        open_leases(tmp_path / "files", url)


def test_two_folders_in_one_database_do_not_meet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'leases.db'}"
    found = [open_leases(tmp_path / name, url).take("run-a") for name in ("one", "two")]

    for lease in found:
        assert lease is not None
        lease.give_back()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "'nonsense' is no URL of a database"),
        ("postgresql://me:secret@nowhere/base", "driver .* is not installed|cannot be opened"),
        ("sqlite:////no/such/folder/leases.db", "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_opened_is_told_in_one_line(
    url: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words) as error:
        open_leases(tmp_path, url)

    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    from harness.leases.database import shown

    assert shown("postgresql://me:secret@host/base") == "postgresql://me:***@host/base"
    assert open_database(f"sqlite:///{tmp_path / 'a.db'}", "s").held() == []


@pytest.mark.parametrize("grace", [0.0, -1.0, float("nan")])
def test_a_grace_that_no_sign_of_life_fits_in_is_refused(grace: float, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--grace: must be at least 1 seconds"):
        open_leases(tmp_path, None, grace)


def test_the_age_of_a_lease_is_the_databases_whatever_a_workers_time_zone(
    postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session has the zone of its machine; a sign of life has none."""
    url = postgres()
    monkeypatch.setenv("PGTZ", "America/Lima")
    silent(open_leases(tmp_path, url).store)
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")

    (seen,) = open_leases(tmp_path, url).store.held()

    assert seen.age is not None
    assert seen.age < 60
