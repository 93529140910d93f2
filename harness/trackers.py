"""Mirrors of a run's records in other trackers; the only file that imports their packages.

records.jsonl is the truth, so a tracker may fail, but it may never end, block or slow a run. Each
one works in a thread of its own behind a queue: the loop hands over a dict and trains on. The price
is that a failure is told a moment late, and that what a tracker has not taken within
`finish_seconds` of the end is missing there; `replay` mirrors such a run when it is asked for next.

W&B in particular prompts, retries for 90 s and waits at exit, all by default. Its mode is resolved
once, before it is imported; without a credential or a reachable server it writes to OUT/wandb, from
where `wandb sync` uploads.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import netrc
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from harness.records import HEADER, RECORDS, read_records

Warn = Callable[[str], None]
WandbMode = Literal["online", "offline", "disabled"]
_LOG_WARNING: Warn = logging.getLogger(__name__).warning

# 3,000 records gather while a nano model trains through the longest start that W&B can have.
_MAX_WAITING_RECORDS = 10_000
# W&B's server moved; either name may be in an older netrc file.
_WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
_WANDB_MODES: dict[str, WandbMode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",  # the SDK's older words, still accepted in WANDB_MODE
    "dryrun": "offline",
}


class Tracker(Protocol):
    """Where one run at a time is mirrored; any method may raise, which drops the tracker."""

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a run: `header` is run.json, `group` the ablation's name, `label` the arm's."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one object of records.jsonl."""

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Close the run with run.json's final `status` and `costs`."""


class Mirror:
    """Hands every record to every tracker; a tracker that fails is dropped with one warning."""

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        out: Path | None = None,
        warn: Warn = _LOG_WARNING,
        *,
        start_seconds: float = 5.0,
        finish_seconds: float = 20.0,
    ) -> None:
        """Mirror runs of `out`; the two limits are all the time a run can lose to trackers."""
        self._trackers = dict(trackers)
        self._out, self._warn = out, warn
        self._start_seconds, self._finish_seconds = start_seconds, finish_seconds
        self._lanes: list[_Lane] = []
        self._run_id = ""

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a run; a resumed run logs its earlier records again, for a complete mirror."""
        self._open(list(self._trackers), header, group, label)

    def log(self, record: Mapping[str, Any], *, patience: float = 0.0) -> None:
        """Pass a record on; it must not change afterwards. Never waits, unless `patience` says."""
        for lane in self._lanes:
            lane.put("log", record, patience=patience)

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Close the run; a finished run is marked, so that it is mirrored once."""
        for lane in self._lanes:
            lane.put("finish", status, costs)
        deadline = time.monotonic() + self._finish_seconds
        for lane in self._lanes:
            left = max(0.0, deadline - time.monotonic())
            if not lane.broken and not lane.done.wait(left):
                lane.drop(f"did not finish within {self._finish_seconds:g} s")
            if lane.broken:
                self._trackers.pop(lane.name, None)
            elif status == "finished" and self._out is not None:
                with suppress(OSError):  # no marker: mirrored twice, which loses nothing
                    _marker(self._out / "runs" / self._run_id, lane.name).touch()
        self._lanes = []

    def replay(self, run_dir: Path, group: str, label: str) -> None:
        """Mirror a run found on disk, unless it has been or is not finished."""
        header = json.loads((run_dir / HEADER).read_text())
        names = [name for name in self._trackers if not _marker(run_dir, name).exists()]
        if header["status"] != "finished" or not names:
            return
        self._open(names, header, group, label)
        for record in read_records(run_dir / RECORDS):
            self.log(record, patience=self._finish_seconds)
        self.finish(header["status"], header["costs"])

    def _open(self, names: list[str], header: Mapping[str, Any], group: str, label: str) -> None:
        self._run_id = header["run_id"]
        self._lanes = [_Lane(name, self._trackers[name], self._warn) for name in names]
        for lane in self._lanes:
            lane.put("start", header, group, label)
        # Most trackers are ready in 2 s. Waiting for them keeps their start out of the run's
        # clock; one that is not is left to start while the run goes on.
        deadline = time.monotonic() + self._start_seconds
        for lane in self._lanes:
            lane.started.wait(max(0.0, deadline - time.monotonic()))


class _Lane:
    """One tracker, its queue and the daemon thread that empties it, for one run."""

    def __init__(self, name: str, tracker: Tracker, warn: Warn) -> None:
        self.name, self.broken = name, False
        self.started, self.done = threading.Event(), threading.Event()
        self._tracker, self._warn = tracker, warn
        self._lock = threading.Lock()
        self._calls: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue(_MAX_WAITING_RECORDS)
        threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True).start()

    def put(self, method: str, *args: Any, patience: float = 0.0) -> None:
        if self.broken:
            return
        try:
            self._calls.put(
                (method, partial(getattr(self._tracker, method), *args)), True, patience
            )
        except queue.Full:
            self.drop(f"fell {_MAX_WAITING_RECORDS:,} records behind")

    def drop(self, reason: str) -> None:
        with self._lock:
            first, self.broken = not self.broken, True
        if first:
            self._warn(f"tracker {self.name} dropped: {reason}; the run and its records go on")

    def _work(self) -> None:
        method = ""
        while method != "finish" and not self.broken:
            method, call = self._calls.get()
            try:
                call()
            except (Exception, SystemExit) as error:  # W&B exits where its service has died
                self.drop(f"{type(error).__name__}: {_first_line(error)}")
            self.started.set()
        self.done.set()


class WandbTracker:
    """One W&B run for each run, under the same id; grouped by ablation, job type by arm."""

    def __init__(
        self,
        out: Path,
        mode: Literal["online", "offline"],
        warn: Warn = _LOG_WARNING,
        *,
        every: int = 10,
        init_seconds: float = 12.0,
    ) -> None:
        """Log training numbers every `every` steps; evaluations, notes and the last step always.

        A row costs the process about 0.4 ms, which a step of a nano model would feel.
        """
        self._out, self._mode, self._warn = out.resolve(), mode, warn
        self._every, self._init_seconds = every, init_seconds
        self._run: Any = None
        self._header: Mapping[str, Any] = {}
        self._row: dict[str, float] = {}
        self._step, self._is_due = 0, False

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a W&B run; where the server cannot be reached, offline, then and from then on."""
        self._header, self._row, self._step, self._is_due = header, {}, 0, False
        if self._mode == "online":
            try:
                with _service_ends_on_error():
                    self._run = self._init(header, group, label)
            except Exception as error:
                self._warn(f"W&B is not reachable ({_first_line(error)}); writing offline instead")
                self._mode = "offline"
        if self._mode == "offline":
            self._run = self._init(header, group, label)
        self._run.define_metric("tokens")
        self._run.define_metric("*", step_metric="tokens")

    def log(self, record: Mapping[str, Any]) -> None:
        """Gather the records of one step; they become one row when the next step begins."""
        if record["step"] != self._step:
            with _service_ends_on_error():
                self._flush(self._is_due)
        self._step = record["step"]
        self._is_due |= record["kind"] != "step" or self._step % self._every == 0
        self._row |= scalars(record, self._header)

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Log the last row whatever its step, put costs into the summary, close the run."""
        with _service_ends_on_error():
            self._flush(True)
            self._run.summary.update({"status": status, **cost_scalars(costs)})
            try:
                self._run.finish(exit_code=0 if status == "finished" else 1)
            except TimeoutError:
                folder = Path(self._run.dir).parent
                self._warn(
                    f"W&B has not taken all of a run yet; to complete it: wandb sync {folder}"
                )
                self._mode = "offline"

    def _flush(self, is_due: bool) -> None:
        if self._row and is_due:
            # With an explicit step, a resumed online run ignores the rows it already has.
            self._run.log(self._row, step=self._step)
        self._row, self._is_due = {}, False

    def _init(self, header: Mapping[str, Any], group: str, label: str) -> Any:
        _confine_wandb(self._out / "wandb")
        import wandb

        settings = wandb.Settings(
            mode=self._mode,
            root_dir=str(self._out),
            init_timeout=self._init_seconds,
            finish_timeout=10,  # of no progress at the server; all rows are on the disk by then
            finish_timeout_raises=True,
            reinit="create_new",
            console="off",
            silent=True,  # also what forbids the SDK to prompt, on a terminal too
            symlink=False,  # `latest-run` would be fought over by parallel runs
            disable_git=True,  # run.json has the commit, and is part of the config below
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        spec = header["spec"]
        facts = {k: v for k, v in header.items() if k not in ("spec", "costs", "status", "reason")}
        wandb.setup(settings=settings)  # the SDK logs in before it reads what init is given
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "steelyard"),
            id=header["run_id"],
            group=group,
            name=f"{label}-seed{spec['seed']}" if "seed" in spec else label,
            job_type="auxiliary" if spec.get("evaluation") is None else label,
            config=flatten({**facts, **spec, "ablation": group, "arm": label}),
            resume="allow" if self._mode == "online" else None,
            settings=settings,
        )
        os.environ.pop("WANDB_SERVICE", None)  # child processes must not share our service
        return run


def _confine_wandb(folder: Path) -> None:
    """Keep the SDK's files out of the user's home folder, unless the user has placed them."""
    folder.mkdir(parents=True, exist_ok=True)  # the SDK would silently go to the system's /tmp
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "data"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    # The SDK's own telemetry waits 20 s at exit for a server that accepts and never answers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.pop("WANDB_SERVICE", None)  # a service that is not ours cannot be restarted


@contextmanager
def _service_ends_on_error() -> Iterator[None]:
    """End the SDK's service process after a failure.

    It would hold the run id for the next attempt, and raise again at exit where it has died.
    """
    try:
        yield
    except Exception:
        import wandb

        with suppress(Exception, SystemExit):  # SystemExit: how teardown reports a dead service
            wandb.teardown(exit_code=1)
        raise


def resolve_wandb_mode(
    flag: str | None, env: Mapping[str, str], netrc_path: Path | None
) -> WandbMode:
    """Return `flag`, else WANDB_MODE, else online where there is a credential, else offline."""
    for source, word in (("the W&B mode", flag), ("WANDB_MODE", env.get("WANDB_MODE"))):
        if word:
            if word not in _WANDB_MODES:
                raise ValueError(f"{source} is {word!r}; use online, offline or disabled")
            return _WANDB_MODES[word]
    if env.get("WANDB_API_KEY"):
        return "online"
    base_url = env.get("WANDB_BASE_URL")
    hosts = (urlsplit(base_url).netloc,) if base_url else _WANDB_HOSTS
    try:
        known = netrc.netrc(netrc_path).hosts if netrc_path is not None else {}
    except (OSError, ValueError, netrc.NetrcParseError):
        known = {}  # unreadable is as good as absent: offline asks for nothing
    return "online" if any(host in known for host in hosts) else "offline"


def scalars(record: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one record under the names that every tracker shows."""
    names = (header["domains"], header["probe_domains"])
    if record["kind"] == "eval":
        units = ("bits_per_byte", "nats_per_token")
        found = {f"{record['split']}/{unit}/{record['domain']}": record[unit] for unit in units}
    elif record["kind"] == "note":
        found = _numbers(f"notes/{record['name']}", record["values"], names)
    elif record["kind"] == "step":
        plain = {key: record[key] for key in ("loss", "lr", "grad_norm")}
        found = _numbers("train", plain, names)
        found |= _numbers("train/loss", record["domain_losses"], names)
        found |= _numbers("weights", record["weights"], names)
    else:
        return {}
    return found | ({"tokens": record["tokens"]} if "tokens" in record else {})


def cost_scalars(costs: Mapping[str, Any]) -> dict[str, float]:
    """Return every account's numbers, and the mixer's as overhead of this run.

    What a method spent in auxiliary runs is in those runs, not here.
    """
    found = _numbers("cost", costs, ())
    for unit in ("seconds", "flops"):
        train, mixer = found.get(f"cost/train/{unit}"), found.get(f"cost/mixer/{unit}")
        if mixer is not None:
            found[f"overhead/{unit}"] = mixer
            if train:
                found[f"overhead/share_of_train_{unit}"] = mixer / train
    return found


def _numbers(prefix: str, value: Any, names: Sequence[Sequence[str]]) -> dict[str, float]:
    """Flatten numbers to path-like names; a list counts where it has one entry a domain."""
    if isinstance(value, int | float):
        return {prefix: value}
    if isinstance(value, list | tuple):
        domains = next((n for n in names if len(n) == len(value)), ())
        value = dict(zip(domains, value, strict=False))
    if not isinstance(value, Mapping):
        return {}
    nested = (_numbers(f"{prefix}/{key}", item, names) for key, item in value.items())
    return {name: number for found in nested for name, number in found.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys, the form of overrides and of sweep parameters."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def open_trackers(
    names: Sequence[str],
    out: Path,
    wandb_mode: str | None = None,
    warn: Warn = _LOG_WARNING,
) -> Mirror:
    """Return a mirror of the named trackers; ValueError, before any work, where one cannot be."""
    trackers: dict[str, Tracker] = {}
    for name in names:
        if name not in _OPENERS:
            raise ValueError(f"trackers: {name!r} is unknown; use {', '.join(_OPENERS)} or none")
        if (tracker := _OPENERS[name](out, wandb_mode, warn)) is not None:
            trackers[name] = tracker
    return Mirror(trackers, out, warn)


def _open_wandb(out: Path, flag: str | None, warn: Warn) -> Tracker | None:
    paths = [os.environ.get("NETRC", "~/.netrc"), "~/.netrc", "~/_netrc"]
    existing = (Path(path).expanduser() for path in paths)
    path = next((path for path in existing if path.is_file()), None)
    mode = resolve_wandb_mode(flag, os.environ, path)
    if mode == "disabled":
        return None
    package = importlib.util.find_spec("wandb")
    # Without an origin it is a mere folder called wandb, such as earlier runs leave behind.
    if package is None or package.origin is None:
        raise ValueError("trackers: wandb is not installed; pip install steelyard[track]")
    return WandbTracker(out, mode, warn)


_OPENERS: dict[str, Callable[[Path, str | None, Warn], Tracker | None]] = {"wandb": _open_wandb}


def _marker(run_dir: Path, name: str) -> Path:
    return run_dir / f".mirrored-{name}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")[:160]
