"""Where Optuna's studies lie, and what becomes of a trial whose worker has died.

    sqlite:///runs/studies.db            one machine; the default, in the output folder
    postgresql://user@host/base          many machines; any URL that SQLAlchemy knows
    journal:/shared/studies.log          a file on a shared disk, where SQLite cannot be trusted
    grpc://host:13000                    many machines, by Optuna's proxy in front of a database

Databases keep heartbeats and Optuna retries what has gone stale. A journal and a proxy keep none:
there a worker's pulse is a user attribute of its trial, and the reaper here watches whether it
still changes, by its own clock alone, since clocks of two machines differ.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from harness.errors import SpecError
from harness.leases.sessions import keep_utc, without_driver

# User attributes of a trial: how often its worker has said that it is alive, who that is, and
# which of the study's trials it is.
PULSE, WORKER, SLOT = "pulse", "worker", "slot"
MAX_RETRIES = 2
BEAT_SECONDS, GRACE_SECONDS = 10, 60

# Heartbeats and their retries have been experimental since 2021, and Optuna's own way all the same.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
_queue_again = RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a dead worker's trial again, without what that worker had said of it."""
    bare = copy(trial)
    bare.user_attrs = _slot_alone(trial)
    _queue_again(study, bare)


def _slot_alone(trial: FrozenTrial) -> dict[str, Any]:
    return {name: fact for name, fact in trial.user_attrs.items() if name == SLOT}


def open_storage(url: str, beat: int = BEAT_SECONDS, grace: int = GRACE_SECONDS) -> Any:
    """Return the storage at `url`; SpecError where there is none of that kind, or no answer."""
    kind, _, place = url.partition(":")
    try:
        if kind == "journal":
            # a lock by exclusive creation: a symbolic link is not atomic on every shared disk
            return JournalStorage(JournalFileBackend(place, JournalFileOpenLock(place)))
        if kind == "grpc":
            host, _, port = place.removeprefix("//").rpartition(":")
            return _answering(GrpcStorageProxy(host=host, port=int(port)))
        storage = RDBStorage(
            url,
            heartbeat_interval=beat,
            grace_period=grace,
            heartbeat_stale_trial_callback=_retry,
        )
        keep_utc(storage.engine)
        return storage
    except Exception as error:  # of SQLAlchemy, of a driver that is not installed, of grpc
        told = error.__cause__ or error  # such as the name of the driver that is not installed
        reason = next(iter(str(told).splitlines()), f"no answer ({type(told).__name__})")
        if isinstance(told, ModuleNotFoundError):
            reason = without_driver(told)
        known = "sqlite:///FILE, postgresql://..., journal:FILE or grpc://HOST:PORT"
        shown = without_password(url)
        raise SpecError(f"--storage: {shown!r} cannot be opened: {reason}; give {known}") from None


def storage_url(storage: str | None, out: Path) -> str:
    """Return where Optuna's studies lie: as said, by OPTUNA_STORAGE, or in the output folder."""
    return storage or os.environ.get("OPTUNA_STORAGE") or f"sqlite:///{out / 'studies.db'}"


def open_existing(url: str, fix: str) -> Any:
    """Return the storage at `url`; SpecError, which says `fix`, where its file is not there."""
    kind, _, place = url.partition(":")
    path = place.removeprefix("///").partition("?")[0] if kind == "sqlite" else place
    if kind in ("sqlite", "journal") and not Path(path).exists():
        raise SpecError(f"--storage: {without_password(url)} is not there; make it by {fix}")
    return open_storage(url)


def without_password(url: str) -> str:
    """Return a storage's URL with its password, if it has one, as three stars."""
    shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", shown)


def _answering(proxy: Any) -> Any:
    proxy.wait_server_ready(timeout=10)
    return proxy


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial's settings again in its slot, without what its last attempt had found."""
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=_slot_alone(trial),
            system_attrs=trial.system_attrs,
        )
    )


def claim(study: optuna.Study, storage: Any) -> bool:
    """Give the trial that is handed out next its first sign of life; false where none waits.

    A worker that dies between asking for it and its own first sign is then found dead too. The
    price: `optuna ask`, if it gets a trial whose worker died right here, is taken for dead as well.
    """
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not waiting:
        return False
    trial_id = waiting[0]._trial_id  # Optuna's ways to name it all ask for it first
    with suppress(optuna.exceptions.UpdateFinishedTrialError):  # somebody was faster, in all of it
        if isinstance(storage, RDBStorage):
            storage.record_heartbeat(trial_id)
        else:
            storage.set_trial_user_attr(trial_id, PULSE, -1)
    return True


@contextmanager
def pulse(trial: optuna.Trial, storage: Any, beat: float = BEAT_SECONDS) -> Iterator[None]:
    """Let a trial's pulse beat while it is worked at, where the storage has no heartbeat."""
    if isinstance(storage, RDBStorage):
        yield
        return
    over = threading.Event()

    def keep_beating() -> None:
        count = 0
        while not over.is_set():
            with suppress(Exception):  # the next one may get through
                trial.set_user_attr(PULSE, count)
            count += 1
            over.wait(beat)

    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def store_facts(storage: Any, trial_id: int, facts: Mapping[str, Any]) -> str | None:
    """Store facts with a trial; return why it cannot be, if it was told meanwhile, or given up."""
    try:
        for name, fact in facts.items():
            storage.set_trial_user_attr(trial_id, name, fact)
    except optuna.exceptions.OptunaError as error:
        return str(error)
    return None


class Reaper:
    """Fails and queues again the trials of workers that have died."""

    def __init__(self, storage: Any, grace: float = GRACE_SECONDS) -> None:
        """Believe a worker dead whose pulse has not changed for `grace` seconds."""
        self._storage, self._grace = storage, grace
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}

    def reap(self, study: optuna.Study) -> list[int]:
        """Return the numbers of the trials that were found dead just now."""
        if isinstance(self._storage, RDBStorage):
            before = {t.number for t in study.get_trials(deepcopy=False, states=_RUNNING)}
            optuna.storages.fail_stale_trials(study)
            after = study.get_trials(deepcopy=False)
            return [t.number for t in after if t.number in before and t.state == TrialState.FAIL]
        running = study.get_trials(deepcopy=False, states=_RUNNING)
        return [t.number for t in running if self._is_dead(study, t) and _fail(study, t)]

    def _is_dead(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if not {PULSE, WORKER} & trial.user_attrs.keys():
            return False  # `optuna ask` has given it to somebody who keeps no pulse
        key, now = (study.study_name, trial.number), time.monotonic()
        beat = trial.user_attrs.get(PULSE)
        known, since = self._seen.get(key, (None, now))
        if key not in self._seen or beat != known:
            self._seen[key] = beat, now
            return False
        return now - since > self._grace


_RUNNING = (TrialState.RUNNING,)


def _fail(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a trial and queue it again; false where another reaper, or its worker, was first."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False
    _retry(study, trial)
    return True
