"""A tracker mirrors the records, and can neither end, block nor slow a run.

Tests with the real W&B SDK run it in a process of its own, with an empty home folder, and reach no
network but loopback.
"""

from __future__ import annotations

import gzip
import importlib.machinery
import importlib.util
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from harness.trackers import (
    Mirror,
    Tracker,
    WandbTracker,
    cost_scalars,
    flatten,
    open_trackers,
    resolve_wandb_mode,
    scalars,
)

ROOT = Path(__file__).parents[2]
KEY = "a" * 40
RUN_ID = "0123456789abcdef"
DOMAINS = ["code", "law"]
HEADER: dict[str, Any] = {
    "schema": 1,
    "run_id": RUN_ID,
    "spec": {"seed": 3, "evaluation": {"every": 10}, "optimizer": {"learning_rate": 1e-3}},
    "status": "finished",
    "reason": None,
    "domains": DOMAINS,
    "probe_domains": [*DOMAINS, "bible"],
    "git_commit": "c0ffee",
    "costs": {"train": {"seconds": 10.0, "flops": 8.0}, "mixer": {"seconds": 0.5, "flops": 2.0}},
}

real_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")


def evaluation(step: int, domain: str, split: str = "heldout") -> dict[str, Any]:
    losses = {"nats_per_token": 5.0 - step / 10, "bits_per_byte": 2.0 - step / 100}
    at = {"kind": "eval", "step": step, "tokens": 64 * step, "split": split, "domain": domain}
    return {**at, **losses, "num_tokens": 9, "num_bytes": 30, "seconds": 0.0}


def training(step: int) -> dict[str, Any]:
    numbers = {"loss": 5.0 - step / 10, "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.1}
    lists = {"weights": [0.25, 0.75], "rows": [1, 3], "domain_losses": [4.0, None]}
    return {"kind": "step", "step": step, "tokens": 64 * step, **numbers, **lists}


def note(step: int) -> dict[str, Any]:
    values = {"scores": [1.0, 2.0], "relative_step": 1e-3, "why": "text", "odd": [1.0]}
    return {"kind": "note", "step": step, "name": "rebalance", "values": values, "seconds": 0.1}


def records(num_steps: int = 20) -> Iterator[dict[str, Any]]:
    for step in range(num_steps + 1):
        if step:
            yield training(step)
        if step % 10 == 0:
            yield note(step)
            yield from (evaluation(step, domain) for domain in HEADER["probe_domains"])


def write_run(out: Path, status: str = "finished") -> Path:
    run_dir = out / "runs" / RUN_ID
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({**HEADER, "status": status}))
    lines = [json.dumps(record) for record in records()]
    (run_dir / "records.jsonl").write_text("\n".join(lines) + '\n{"kind": "st')
    return run_dir


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        self.calls.append(("start", header["run_id"], group, label))

    def log(self, record: Mapping[str, Any]) -> None:
        self.calls.append(("log", record["kind"], record["step"]))

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        self.calls.append(("finish", status))


def mirror_all(mirror: Mirror, status: str = "finished") -> None:
    mirror.start(HEADER, "demo", "uniform")
    for record in records():
        mirror.log(record)
    mirror.finish(status, HEADER["costs"])


# The mode: resolved once, without importing wandb.


@pytest.mark.parametrize(
    ("flag", "env", "expected"),
    [
        (None, {}, "offline"),
        (None, {"WANDB_API_KEY": KEY}, "online"),
        (None, {"WANDB_API_KEY": ""}, "offline"),
        (None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        (None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        (None, {"WANDB_MODE": "disabled"}, "disabled"),
        (None, {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "online"),
    ],
)
def test_flag_then_environment_then_credential(
    flag: str | None, env: dict[str, str], expected: str
) -> None:
    assert resolve_wandb_mode(flag, env, None) == expected


@pytest.mark.parametrize(
    ("netrc", "base_url", "expected"),
    [
        (f"machine api.wandb.ai login user password {KEY}", None, "online"),
        (f"machine api.forge.coreweave.com login user password {KEY}", None, "online"),
        (f"machine api.wandb.ai login user password {KEY}", "https://w.example", "offline"),
        (f"machine w.example:8080 login user password {KEY}", "http://w.example:8080", "online"),
        (f"machine github.com login user password {KEY}", None, "offline"),
        (f"default login user password {KEY}", None, "offline"),
        ("machine api.wandb.ai {{{ nonsense", None, "offline"),
    ],
)
def test_netrc_counts_for_the_host_of_the_base_url(
    tmp_path: Path, netrc: str, base_url: str | None, expected: str
) -> None:
    path = tmp_path / "netrc"
    path.write_text(netrc + "\n")
    env = {} if base_url is None else {"WANDB_BASE_URL": base_url}

    assert resolve_wandb_mode(None, env, path) == expected
    assert resolve_wandb_mode(None, env, tmp_path / "absent") == "offline"


def test_an_unknown_mode_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="WANDB_MODE is 'of'; use online, offline or disabled"):
        resolve_wandb_mode(None, {"WANDB_MODE": "of"}, None)


def test_opening_refuses_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match="'wandbb' is unknown; use wandb or none"):
        open_trackers(("wandbb",), tmp_path)
    folder = importlib.machinery.ModuleSpec("wandb", None)  # ./wandb of earlier runs looks so
    for found in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, found=found: found)
        with pytest.raises(ValueError, match=r"pip install steelyard\[track\]"):
            open_trackers(("wandb",), tmp_path)
        mirror_all(open_trackers(("wandb",), tmp_path, "disabled"))


def test_importing_costs_neither_wandb_nor_torch() -> None:
    code = "import sys, harness.trackers; print({'wandb', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


# The names.


def test_every_kind_of_record_has_its_names() -> None:
    train = {"tokens": 64, "train/loss": 4.9, "train/lr": 1e-3, "train/grad_norm": 1.0}
    domains = {"weights/code": 0.25, "weights/law": 0.75, "train/loss/code": 4.0}
    scores = {"notes/rebalance/scores/code": 1.0, "notes/rebalance/scores/law": 2.0}
    losses = {"tuning/bits_per_byte/bible": 1.9, "tuning/nats_per_token/bible": 4.0, "tokens": 640}

    assert scalars(training(1), HEADER) == train | domains
    assert scalars(note(1), HEADER) == scores | {"notes/rebalance/relative_step": 1e-3}
    assert scalars(evaluation(10, "bible", "tuning"), HEADER) == losses
    assert scalars({"kind": "of a later version", "step": 1}, HEADER) == {}


def test_the_mixer_account_is_the_overhead() -> None:
    found = cost_scalars(HEADER["costs"])

    assert found["cost/train/seconds"] == 10.0
    assert found["overhead/seconds"] == 0.5
    assert found["overhead/share_of_train_seconds"] == 0.05
    assert found["overhead/share_of_train_flops"] == 0.25
    assert cost_scalars({}) == {}


def test_configs_are_flat_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [1, 2],
        "e": None,
    }


# The mirror.


def test_everything_arrives_in_order_at_every_tracker(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    first, second = Listener(), Listener()
    mirror_all(Mirror({"first": first, "second": second}, tmp_path))
    logged = [("log", record["kind"], record["step"]) for record in records()]

    assert first.calls == [("start", RUN_ID, "demo", "uniform"), *logged, ("finish", "finished")]
    assert second.calls == first.calls
    assert (run_dir / ".mirrored-first").exists()


@pytest.mark.parametrize("method", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [RuntimeError("disk on fire\nat 40 C"), SystemExit(3)])
def test_a_failing_tracker_is_dropped_with_one_warning(
    tmp_path: Path, method: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = write_run(tmp_path)
    good, bad, warnings = Listener(), Listener(), list[str]()

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(bad, method, fail)
    mirror = Mirror({"bad": bad, "good": good}, tmp_path, warnings.append)
    mirror_all(mirror)
    mirror_all(mirror)

    assert len(good.calls) == 2 * (2 + len(list(records())))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"tracker bad dropped: {type(error).__name__}")
    assert "\n" not in warnings[0]
    assert not (run_dir / ".mirrored-bad").exists()


def test_a_tracker_that_hangs_costs_the_two_limits_and_no_more(tmp_path: Path) -> None:
    release, warnings = threading.Event(), list[str]()

    class Hanging(Listener):
        def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
            release.wait()

    limits = {"start_seconds": 0.2, "finish_seconds": 0.3}
    mirror = Mirror({"slow": Hanging()}, tmp_path, warnings.append, **limits)
    began = time.monotonic()
    mirror_all(mirror)
    lost = time.monotonic() - began
    release.set()

    assert 0.5 <= lost < 1.5
    assert len(warnings) == 1
    assert "did not finish within 0.3 s" in warnings[0]


def test_a_tracker_far_behind_is_dropped_rather_than_waited_for(tmp_path: Path) -> None:
    release, warnings = threading.Event(), list[str]()

    class Stuck(Listener):
        def log(self, record: Mapping[str, Any]) -> None:
            release.wait()

    mirror = Mirror({"stuck": Stuck()}, tmp_path, warnings.append)
    mirror.start(HEADER, "demo", "uniform")
    began = time.monotonic()
    for _ in range(12_000):
        mirror.log(training(1))
    lost = time.monotonic() - began
    mirror.finish("finished", {})
    release.set()

    assert lost < 2
    assert len(warnings) == 1
    assert "10,000 records behind" in warnings[0]


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    release = threading.Event()

    class Stuck(Listener):
        def finish(self, status: str, costs: Mapping[str, Any]) -> None:
            release.wait()

    mirror = Mirror({"stuck": Stuck()}, tmp_path)
    mirror.start(HEADER, "demo", "uniform")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        mirror.finish("finished", {})
    release.set()


def test_a_finished_run_is_replayed_once(tmp_path: Path) -> None:
    run_dir, listener = write_run(tmp_path), Listener()
    mirror = Mirror({"listener": listener}, tmp_path)
    mirror.replay(run_dir, "demo", "uniform")
    mirror.replay(run_dir, "demo", "uniform")

    logged = [("log", record["kind"], record["step"]) for record in records()]
    assert listener.calls == [("start", RUN_ID, "demo", "uniform"), *logged, ("finish", "finished")]


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_only_finished_runs_are_replayed(tmp_path: Path, status: str) -> None:
    run_dir, listener = write_run(tmp_path, status), Listener()
    mirror = Mirror({"listener": listener}, tmp_path)
    mirror.replay(run_dir, "demo", "uniform")
    assert listener.calls == []

    mirror_all(mirror, status)
    assert not (run_dir / ".mirrored-listener").exists()


# W&B, with a double of the SDK.


class FakeWandb:
    """The part of the SDK that is used; `reachable` says whether online works."""

    def __init__(self, reachable: bool = True) -> None:
        self.reachable, self.inits, self.ended = reachable, list[dict[str, Any]](), 0
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, Any] = {}
        self.Settings = SimpleNamespace
        self.finished: list[int] = []

    def setup(self, settings: Any) -> None:
        assert settings.silent

    def init(self, **kwargs: Any) -> Any:
        self.inits.append(kwargs)
        if kwargs["settings"].mode == "online" and not self.reachable:
            raise OSError("no route to host")
        return SimpleNamespace(
            define_metric=lambda *args, **kwargs: None,
            log=lambda row, step: self.rows.append((step, row)),
            summary=self.summary,
            finish=lambda exit_code: self.finished.append(exit_code),
        )

    def teardown(self, exit_code: int) -> None:
        self.ended += 1


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Undo after the test what the tracker sets in the environment."""
    for name in ("DATA_DIR", "CACHE_DIR", "ERROR_REPORTING", "SERVICE"):
        monkeypatch.setenv(f"WANDB_{name}", "false")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return monkeypatch


def drive(tracker: Tracker, header: Mapping[str, Any] = HEADER, status: str = "finished") -> None:
    tracker.start(header, "demo", "uniform")
    for record in records(23):
        tracker.log(record)
    tracker.finish(status, HEADER["costs"])


def test_records_of_one_step_are_one_row(tmp_path: Path, isolated: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    isolated.setitem(sys.modules, "wandb", fake)
    drive(WandbTracker(tmp_path, "offline", every=1))

    assert [step for step, _ in fake.rows] == list(range(24))
    expected = scalars(training(10), HEADER) | scalars(note(10), HEADER)
    for domain in HEADER["probe_domains"]:
        expected |= scalars(evaluation(10, domain), HEADER)
    assert fake.rows[10][1] == expected
    assert fake.summary == {"status": "finished", **cost_scalars(HEADER["costs"])}


def test_logging_can_be_thinned_out(tmp_path: Path, isolated: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    isolated.setitem(sys.modules, "wandb", fake)
    drive(WandbTracker(tmp_path, "offline", every=8), status="failed")

    assert [step for step, _ in fake.rows] == [0, 8, 10, 16, 20, 23]  # evaluations and the end too
    assert fake.finished == [1]


def test_a_run_is_named_after_its_arm(tmp_path: Path, isolated: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    isolated.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker(tmp_path, "offline")
    drive(tracker)
    drive(tracker, {**HEADER, "spec": {**HEADER["spec"], "evaluation": None}})
    main, auxiliary = fake.inits

    assert (main["id"], main["group"], main["job_type"]) == (RUN_ID, "demo", "uniform")
    assert main["name"] == "uniform-seed3"
    assert main["config"]["optimizer.learning_rate"] == 1e-3
    assert main["config"]["git_commit"] == "c0ffee"
    assert auxiliary["job_type"] == "auxiliary"


def test_offline_once_is_offline_for_good(tmp_path: Path, isolated: pytest.MonkeyPatch) -> None:
    fake, warnings = FakeWandb(reachable=False), list[str]()
    isolated.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker(tmp_path, "online", warnings.append)
    drive(tracker)
    drive(tracker)

    modes = [init["settings"].mode for init in fake.inits]
    assert modes == ["online", "offline", "offline"]
    assert warnings == ["W&B is not reachable (no route to host); writing offline instead"]
    assert fake.ended == 1


# W&B itself.

DRIVER = """
import json, random, sys, time
from pathlib import Path
from harness.records import read_records
from harness.trackers import Mirror, WandbTracker, open_trackers

out, flag, init_seconds, pause = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
run_dir, warnings, random_state = next((out / "runs").iterdir()), [], random.getstate()
header = json.loads((run_dir / "run.json").read_text())
if init_seconds == "default":
    mirror = open_trackers(("wandb",), out, None if flag == "auto" else flag, warnings.append)
else:
    tracker = WandbTracker(out, flag, warnings.append, init_seconds=float(init_seconds))
    mirror = Mirror({"wandb": tracker}, out, warnings.append)
began = time.monotonic()
mirror.start(header, "demo", "uniform")
started = time.monotonic()
longest = 0.0
for record in read_records(run_dir / "records.jsonl"):
    before = time.monotonic()
    mirror.log(record)
    longest = max(longest, time.monotonic() - before)
    time.sleep(pause)
print("LOGGED", flush=True)
finishing = time.monotonic()
mirror.finish(header["status"], header["costs"])
lost = started - began + time.monotonic() - finishing
print(json.dumps({"warnings": warnings, "lost": lost, "longest": longest,
                  "is_random_untouched": random.getstate() == random_state}))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "NETRC", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def mirror_in_process(
    out: Path,
    flag: str = "auto",
    init_seconds: str = "default",
    pause: float = 0.0,
    **env: str,
) -> dict[str, Any]:
    """Mirror the run of `out` in a fresh process; `seconds` is its whole life."""
    home = out.parent / "home"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(out), flag, init_seconds, str(pause)],
        env=environment(home, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(home.iterdir()) == []
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "seconds": time.monotonic() - began}


def inspect(out: Path, *options: str) -> list[dict[str, Any]]:
    """Read the one offline run of `out` as the SDK's own command shows it, a record a line."""
    (path,) = out.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(path)]
    env = environment(out.parent / "reader", WANDB_ERROR_REPORTING="false")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    whole = "--summary" in options
    return [json.loads(line) for line in ([done.stdout] if whole else done.stdout.splitlines())]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@real_wandb
def test_an_offline_run_reads_back_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    told = mirror_in_process(out)
    lines = inspect(out)
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    (run,) = [line["run"] for line in lines if line["type"] == "run"]

    summary: dict[str, Any] = {}
    for line in lines:
        summary |= line.get("summary", {}).get("update", {})

    assert told["warnings"] == []
    assert told["is_random_untouched"]
    assert (run["run_id"], run["run_group"], run["job_type"]) == (RUN_ID, "demo", "uniform")
    assert run["config"]["update"]["optimizer.learning_rate"] == 1e-3
    assert [row["tokens"] for row in history] == [0, 640, 1280]
    assert [row["weights/law"] for row in history[1:]] == [0.75] * 2
    losses = [
        r["heldout/bits_per_byte/bible"] for r in history if "heldout/bits_per_byte/bible" in r
    ]
    assert losses == [2.0, 1.9, 1.8]
    assert summary["overhead/seconds"] == 0.5
    axes = [line["metric"] for line in lines if line["type"] == "metric"]
    assert any(a.get("glob_name") == "*" and a.get("step_metric") == "tokens" for a in axes)


@real_wandb
@pytest.mark.parametrize("server", ["refuses", "hangs"])
def test_without_a_server_a_run_goes_offline(tmp_path: Path, server: str, silent_port: int) -> None:
    out = tmp_path / "out"
    run_dir = write_run(out)
    url = f"http://127.0.0.1:{9 if server == 'refuses' else silent_port}"
    told = mirror_in_process(out, "online", "2", WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    (summary,) = inspect(out, "--summary")

    assert len(told["warnings"]) == 1
    assert "W&B is not reachable" in told["warnings"][0]
    assert told["longest"] < 0.1
    assert told["seconds"] < 20
    assert summary["state"] == "finished"
    assert summary["summary"]["heldout/bits_per_byte/code"] == 1.8
    assert (run_dir / ".mirrored-wandb").exists()


@real_wandb
@pytest.mark.slow
@pytest.mark.parametrize("server", ["refuses", "hangs"])
def test_the_default_limits_hold_from_start_to_exit(
    tmp_path: Path, server: str, silent_port: int
) -> None:
    out = tmp_path / "out"
    write_run(out)
    url = f"http://127.0.0.1:{9 if server == 'refuses' else silent_port}"
    told = mirror_in_process(out, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)

    assert len(told["warnings"]) == 1
    assert told["longest"] < 0.1
    assert told["lost"] <= 25
    assert (
        told["seconds"] - told["lost"] < 15
    )  # starting Python and leaving it: exit waits for none


class Stalling(BaseHTTPRequestHandler):
    """Enough of a W&B server to open a run, until it is told to stop answering."""

    protocol_version = "HTTP/1.1"
    stalled: threading.Event
    answers: ClassVar[dict[str, Any]] = {
        "RunResumeStatus": {"model": None},
        "UpsertBucket": {
            "upsertBucket": {
                "bucket": {
                    "id": "b",
                    "name": RUN_ID,
                    "displayName": "uniform",
                    "project": {"name": "steelyard", "entity": {"name": "local"}},
                },
                "inserted": True,
            }
        },
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.stalled.is_set():
            time.sleep(100)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body).get("operationName") if self.path == "/graphql" else None
        answer = json.dumps({"data": self.answers.get(asked, {})} if asked else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if self.path.endswith("/file_stream"):
            self.stalled.set()

    def log_message(self, *args: Any) -> None:
        """Say nothing on stderr."""


@real_wandb
@pytest.mark.slow
def test_a_server_that_falls_silent_midway_leaves_the_run_on_disk(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    handler = type("Handler", (Stalling,), {"stalled": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        told = mirror_in_process(out, pause=0.2, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
        server.shutdown()

    assert len(told["warnings"]) == 1
    assert "to complete it: wandb sync" in told["warnings"][0]
    assert told["lost"] <= 25
    assert told["longest"] < 0.1
    (folder,) = out.glob("wandb/run-*")
    assert told["warnings"][0].endswith(str(folder))


@real_wandb
def test_a_terminal_is_never_asked(tmp_path: Path) -> None:
    """On a terminal without a key, `online` by name would make the SDK ask for one."""
    out = tmp_path / "out"
    write_run(out)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(out), "online", "default", "0"],
        env=environment(tmp_path / "home", WANDB_BASE_URL="http://127.0.0.1:9"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
    if time.monotonic() >= deadline:
        process.kill()
    assert process.wait(10) == 0, shown.decode()
    os.close(ours)
    told = json.loads(shown.decode().splitlines()[-1])

    assert len(told["warnings"]) == 1
    assert "No API key configured" in told["warnings"][0]
    assert len(shown.decode().splitlines()) == 2  # ours, and nothing else
