"""One run of a sweep as `wandb agent` would start it: the file's command, with nobody to ask.

The command is started in a group of its own, so that Ctrl-C reaches it through us and once. What it
logs in W&B is written offline; its rows come live where it writes them to the file named in
STEELYARD_SWEEP_ROWS, as `steelyard study trial` does, and otherwise are read from its offline run
when it has ended.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.trackers import ROWS
from sweeps.stopping import StopRequest
from sweeps.sweepfile import Scalar, Sweep

POLL_SECONDS = 0.2
KILL_SECONDS = 30  # after SIGTERM, as W&B's agent has it
DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")  # the agent's, without `command`
_OF_AGENTS = ("WANDB_SWEEP_ID", "WANDB_SERVICE", "WANDB_RESUME", "WANDB_NAME")


def command_line(sweep: Sweep, values: Mapping[str, Scalar]) -> list[str]:
    """Return the sweep's command with its macros expanded as the agent expands them."""
    pairs = [f"{name}={value}" for name, value in values.items()]
    switches = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value is not False
    ]
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["python"],
        "${program}": [sweep.program or ""],
        "${args}": [f"--{pair}" for pair in pairs],
        "${args_no_hyphens}": pairs,
        "${args_no_boolean_flags}": switches,
        "${args_json}": [json.dumps(dict(values))],
    }
    return [part for word in sweep.command or DEFAULT for part in macros.get(word, [word])]


@dataclass
class Launch:
    """One started run."""

    sweep: Sweep
    out: Path
    run_id: str
    values: Mapping[str, Scalar]

    @property
    def folder(self) -> Path:
        """Return where files beside the W&B runs are kept."""
        return self.out / "wandb" / f"sweep-{self.sweep.name}"

    @property
    def log(self) -> Path:
        """Return the file of what the command prints."""
        return self.folder / f"{self.run_id}.log"

    @property
    def rows(self) -> Path:
        """Return the file of live rows."""
        return self.folder / f"{self.run_id}.jsonl"

    def run(self, hear: Callable[[dict[str, Any]], bool]) -> int:
        """Run the command to its end; return its exit code, negative where a signal ended it.

        `hear` takes each row as it comes, and {} a few times a second; where it returns true, the
        command is asked to end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        words = command_line(self.sweep, self.values)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                words,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._follow(process, hear)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
            process.wait()
        return process.returncode

    def _follow(self, process: subprocess.Popen[bytes], hear: Callable[..., bool]) -> None:
        asked_at: float | None = None
        rows = _RowFile(self.rows)
        over = False
        while not over:
            over = process.poll() is not None  # before the rows are read: none is missed
            for row in [*rows.read(), {}]:
                if hear(row) and asked_at is None:
                    asked_at = time.monotonic()
                    process.terminate()
            if asked_at is not None and time.monotonic() - asked_at > KILL_SECONDS:
                process.kill()
            if not over:
                time.sleep(POLL_SECONDS)

    def _environment(self) -> dict[str, str]:
        config = self.folder / f"config-{self.run_id}.yaml"
        content = {"wandb_version": 1, **{k: {"value": v} for k, v in self.values.items()}}
        config.write_text(yaml.safe_dump(content))
        inherited = {k: v for k, v in os.environ.items() if k not in _OF_AGENTS}
        chosen = {"WANDB_PROJECT": self.sweep.project, "WANDB_ENTITY": self.sweep.entity}
        # our own interpreter's folder, so that `python` and `steelyard` are those of this command
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {
            **inherited,
            **{k: v for k, v in chosen.items() if v and k not in inherited},
            "PATH": path,
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self.out.resolve()),
            "WANDB_RUN_ID": self.run_id,
            "WANDB_RUN_GROUP": self.sweep.name,
            "WANDB_SWEEP_PARAM_PATH": str(config.resolve()),
            "STEELYARD_OUT": str(self.out.resolve()),
            ROWS: str(self.rows.resolve()),
        }

    def last_words(self) -> str:
        """Return the last line that the command has printed."""
        with suppress(OSError):
            lines = [s for s in self.log.read_text(errors="replace").splitlines() if s.strip()]
            if lines:
                return lines[-1].strip()[:200]
        return "it printed nothing"

    def logged(self) -> float | None:
        """Return the metric as the run's W&B files have it at its end; None where they do not."""
        folders = sorted((self.out / "wandb").glob(f"offline-run-*-{self.run_id}"))
        if not folders:
            return None
        reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
        try:
            done = subprocess.run(
                [*reader, str(folders[-1] / f"run-{self.run_id}.wandb")],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            found = json.loads(done.stdout)["summary"].get(self.sweep.metric.name)
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError, AttributeError):
            return None
        if isinstance(found, Mapping):  # a summary by define_metric
            best = "min" if self.sweep.metric.goal == "minimize" else "max"
            found = found.get("last", found.get(best))
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if is_number else None


class Listener:
    """Hears a run's rows as they come, and says when it is to end."""

    def __init__(self, metric: str, trial: Any, place: str, stop: StopRequest) -> None:
        """Report values of `metric` to an Optuna trial, whose pruner may end the run."""
        self._metric, self._trial, self._place, self._stop = metric, trial, place, stop
        self.status: Any = None
        """A line in the terminal, where there is one."""
        self.values: list[float] = []
        self.is_pruned = False

    def __call__(self, row: dict[str, Any]) -> bool:
        """Take a row, or {}; true asks the run to end."""
        value = row.get(self._metric)
        if isinstance(value, int | float) and math.isfinite(value):
            self._trial.report(float(value), len(self.values))  # from 0, as W&B counts
            self.values.append(float(value))
            if self.status is not None:
                self.status.update(f"{self._place} step {row.get('step', '?')}: {value:.4f}")
            self.is_pruned = self.is_pruned or self._trial.should_prune()
        return self.is_pruned or bool(self._stop)


class _RowFile:
    """Reads the lines of a growing file, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what has come since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = content.rpartition(b"\n")
        self._position += len(whole) + len(newline)
        for line in whole.splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
