"""A tracker mirrors the records, and can neither end, block nor slow a run.

Tests with the real W&B SDK run it in a process of its own, with an empty home folder, and reach no
network but loopback.
"""

from __future__ import annotations

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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.trackers import (
    Mirror,
    Tracker,
    WandbTracker,
    cost_scalars,
    flatten,
    scalars,
)
from tests.tracked_run import (
    HEADER,
    RUN_ID,
    Listener,
    evaluation,
    mirror_all,
    note,
    records,
    training,
    write_run,
)
from tests.wandb_server import KEY, WandbServer, isolated_environment

ROOT = Path(__file__).parents[2]
real_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")


# The names.


def test_every_kind_of_record_has_its_names() -> None:
    train = {"tokens": 64, "train/loss": 4.9, "train/lr": 1e-3, "train/grad_norm": 1.0}
    domains = {"weights/code": 0.25, "weights/law": 0.75, "train/loss/code": 4.0}
    scores = {"notes/rebalance/scores/code": 1.0, "notes/rebalance/scores/law": 2.0}
    losses = {"tuning/bits_per_byte/bible": 1.9, "tuning/nats_per_token/bible": 4.0, "tokens": 640}

    assert scalars(training(1), HEADER) == train | domains
    refresh = {"notes/rebalance/relative_step": 1e-3, "tokens": 64}
    assert scalars(note(1), HEADER) == scores | refresh
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
    return isolated_environment(home, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]), **more)


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
    assert history[-1]["overhead/share_of_train_flops"] == 0.25
    axes = {m["glob_name"]: m for line in lines if (m := line.get("metric")) and "glob_name" in m}
    families = {name.partition("/")[0] for row in history for name in row if "/" in name}
    assert {f"{family}/*" for family in families} <= set(axes)
    assert {axis["step_metric"] for axis in axes.values()} == {"tokens"}


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
    assert summary["summary"]["heldout/bits_per_byte/code"] == {"last": 1.8, "min": 1.8}
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


@real_wandb
@pytest.mark.slow
def test_a_server_that_falls_silent_midway_leaves_the_run_on_disk(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    with WandbServer(silent_after="file_stream") as server:
        told = mirror_in_process(out, pause=0.2, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)

    assert len(told["warnings"]) == 1
    assert "to complete it: wandb sync" in told["warnings"][0]
    assert told["lost"] <= 25
    assert told["longest"] < 0.1
    (folder,) = out.glob("wandb/run-*")
    assert told["warnings"][0].endswith(str(folder))


REPORTER = """
import sys
from pathlib import Path
from harness.trackers import publish_report
from harness.trackers.weights_and_biases import WandbTracker

out = Path(sys.argv[1])
files = [out / name for name in ("report.html", "report.md", "results.csv")]
WandbTracker.__init__.__kwdefaults__["sync_seconds"] = 3.0
publish_report(out, "demo", files, ("wandb",), None, print)
"""


@real_wandb
@pytest.mark.slow
def test_a_server_that_falls_silent_during_a_report_is_given_up(tmp_path: Path) -> None:
    for name in ("report.html", "report.md", "results.csv"):
        (tmp_path / name).write_text("run_id,loss\n12,0.5\n")
    with WandbServer(silent_after="CreateArtifact") as server:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", REPORTER, str(tmp_path)],
            env=environment(tmp_path / "home", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url),
            capture_output=True,
            text=True,
            timeout=120,
        )
        lasted = time.monotonic() - began

    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert (done.returncode, done.stderr) == (0, "")
    told = f"W&B has not taken the report; to complete it: wandb sync {folder}"
    assert done.stdout.splitlines() == [told]
    assert lasted < 40


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
