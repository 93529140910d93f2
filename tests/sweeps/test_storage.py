"""Storages: what is opened, and what becomes of the trial of a worker that has died."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import SpecError
from sweeps.storage import (
    MAX_RETRIES,
    PULSE,
    WORKER,
    Reaper,
    claim,
    open_existing,
    open_storage,
    pulse,
    requeue,
    without_password,
)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    return open_storage(f"journal:{tmp_path / 'log'}")


def made(storage: Any) -> optuna.Study:
    study = optuna.create_study(study_name="s", storage=storage)
    study.enqueue_trial({}, user_attrs={"slot": 0})
    return study


def test_a_trial_whose_pulse_stands_still_is_failed_and_queued_again_as_it_was(
    journal: Any,
) -> None:
    study = made(journal)
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr(PULSE, 3)
    trial.set_user_attr(WORKER, "here:1")
    trial.set_user_attr("runs", {"r": [1, 1.0]})
    reaper = Reaper(journal, grace=0.2)

    assert reaper.reap(study) == []  # seen for the first time: it may be alive
    time.sleep(0.3)
    assert reaper.reap(study) == [0]

    dead, again = study.trials
    assert dead.state == TrialState.FAIL
    assert again.state == TrialState.WAITING
    assert again.params == {"x": x}
    assert again.user_attrs == {"slot": 0}  # whoever has it next has said nothing of it yet
    assert study.ask().suggest_float("x", 0, 1) == x


def test_a_trial_whose_pulse_beats_is_left_alone(journal: Any) -> None:
    study = made(journal)
    trial = study.ask()
    reaper = Reaper(journal, grace=0.5)

    with pulse(trial, journal, beat=0.05):
        for _ in range(8):
            assert reaper.reap(study) == []
            time.sleep(0.15)

    assert study.trials[0].state == TrialState.RUNNING


def test_a_clock_of_another_machine_plays_no_part(
    journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reaper's wall clock is a day ahead; it watches whether a count changes."""
    study = made(journal)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    reaper = Reaper(journal, grace=60)
    with pulse(study.ask(), journal, beat=60):
        time.sleep(0.1)
        assert reaper.reap(study) == []
        assert reaper.reap(study) == []

    assert study.trials[0].state == TrialState.RUNNING


def test_a_trial_that_optuna_ask_gave_to_somebody_else_is_left_to_them(journal: Any) -> None:
    study = made(journal)
    study.ask()  # without a worker of ours, and without a pulse
    reaper = Reaper(journal, grace=0.05)
    reaper.reap(study)
    time.sleep(0.1)

    assert reaper.reap(study) == []


def test_two_reapers_queue_a_dead_trial_once(journal: Any, tmp_path: Path) -> None:
    study = made(journal)
    study.ask().set_user_attr(WORKER, "here:1")
    other = open_storage(f"journal:{tmp_path / 'log'}")
    same = optuna.load_study(study_name="s", storage=other)
    reapers = [(Reaper(journal, grace=0.1), study), (Reaper(other, grace=0.1), same)]
    for reaper, seen in reapers:
        reaper.reap(seen)
    time.sleep(0.2)

    found = [reaper.reap(seen) for reaper, seen in reapers]

    assert sorted(found) == [[], [0]]
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_that_kills_every_worker_is_given_up(journal: Any) -> None:
    study = made(journal)
    for _ in range(MAX_RETRIES + 1):
        study.ask().set_user_attr(WORKER, "here:1")
        reaper = Reaper(journal, grace=0.05)
        reaper.reap(study)
        time.sleep(0.1)
        reaper.reap(study)

    assert [t.state for t in study.trials] == [TrialState.FAIL] * (MAX_RETRIES + 1)


def test_a_worker_that_was_believed_dead_cannot_finish_the_trial_again(journal: Any) -> None:
    study = made(journal)
    trial = study.ask()
    trial.set_user_attr(WORKER, "here:1")
    reaper = Reaper(journal, grace=0.05)
    reaper.reap(study)
    time.sleep(0.1)
    reaper.reap(study)

    with pytest.raises((ValueError, optuna.exceptions.UpdateFinishedTrialError)):
        study.tell(trial, 1.0)


def test_a_stopped_trial_does_not_count_as_a_death(journal: Any) -> None:
    study = made(journal)
    for _ in range(MAX_RETRIES + 3):
        trial = study.ask()
        requeue(study, study.trials[trial.number])
        study.tell(trial, state=TrialState.FAIL)

    assert study.trials[-1].state == TrialState.WAITING


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_retries_by_its_own_heartbeat(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    urls = {"sqlite": lambda: f"sqlite:///{tmp_path / 's.db'}"}
    url = urls[kind]() if kind in urls else request.getfixturevalue("postgres")()
    storage = open_storage(url, beat=1, grace=2)
    study = made(storage)

    class Killed(BaseException):
        """Ends the process, as far as Optuna can see."""

    def die(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise Killed

    with pytest.raises(Killed):
        study.optimize(die, n_trials=1)
    reaper = Reaper(storage)
    assert reaper.reap(study) == []
    time.sleep(3.5)

    assert reaper.reap(study) == [0]
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].user_attrs == {"slot": 0}


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_worker_that_dies_between_asking_and_its_first_sign_of_life_is_found_dead(
    kind: str, tmp_path: Path
) -> None:
    urls = {"sqlite": f"sqlite:///{tmp_path / 's.db'}", "journal": f"journal:{tmp_path / 'log'}"}
    storage = open_storage(urls[kind], beat=1, grace=2)
    study = made(storage)
    assert claim(study, storage)
    study.ask()  # and then nothing more
    assert not claim(study, storage)
    reaper = Reaper(storage, grace=2)
    assert reaper.reap(study) == []
    time.sleep(3.5)

    assert reaper.reap(study) == [0]
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_heartbeat_of_another_time_zone_is_as_old_as_it_is(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna compares two sessions' own times; ours are in UTC, whatever a machine's zone."""
    url = postgres()
    monkeypatch.setenv("PGTZ", "America/Lima")
    storage = open_storage(url, beat=1, grace=60)
    storage.record_heartbeat(made(storage).ask()._trial_id)
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    elsewhere = open_storage(url, beat=1, grace=60)

    assert Reaper(elsewhere).reap(optuna.load_study(study_name="s", storage=elsewhere)) == []


def test_a_proxy_in_front_of_a_database_serves_and_keeps_a_pulse(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    behind = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 's.db'}")
    serve = optuna.storages.run_grpc_proxy_server
    threading.Thread(
        target=serve, args=(behind,), kwargs={"host": "127.0.0.1", "port": port}, daemon=True
    ).start()

    storage = open_storage(f"grpc://127.0.0.1:{port}")
    study = made(storage)
    with pulse(study.ask(), storage, beat=0.05):
        time.sleep(0.3)

    assert study.trials[0].user_attrs[PULSE] > 0


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////no/such/folder/s.db", "grpc://here", "mysql+nodriver://x/y"]
)
def test_what_cannot_be_opened_is_one_line(url: str) -> None:
    with pytest.raises(SpecError) as refused:
        open_storage(url)

    line = str(refused.value)
    assert line.startswith(f"--storage: {url!r} cannot be opened: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se:cr/et@host:5432/base", "postgresql://me:***@host:5432/base"),
        ("mysql+driver://me:secret@host/base", "mysql+driver://me:***@host/base"),
        ("postgresql://me@host/base", "postgresql://me@host/base"),
        ("sqlite:///runs/studies.db", "sqlite:///runs/studies.db"),
        ("grpc://host:13000", "grpc://host:13000"),
        ("journal:/shared/a@b.log", "journal:/shared/a@b.log"),
        ("postgresql://h/b?user=me&password=secret", "postgresql://h/b?user=me&password=***"),
    ],
)
def test_a_password_is_said_nowhere(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_password_is_not_in_a_complaint_either() -> None:
    with pytest.raises(SpecError) as refused:
        open_storage("mysql+nodriver://me:secret@host/base")

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", ["sqlite:///{}", "journal:{}", "sqlite:///{}?timeout=9"])
def test_a_file_that_nobody_has_made_is_refused_and_not_made(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "studies"

    with pytest.raises(SpecError, match="is not there; make it by steelyard study create"):
        open_existing(kind.format(path), "steelyard study create s.toml")

    assert not path.exists()
