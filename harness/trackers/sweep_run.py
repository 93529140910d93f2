"""The W&B run that a sweep knows a trial by: one for all its seeds, under the id of the agent.

`wandb agent` tells the process that it starts which run it is to open, in environment variables
that every run of the SDK heeds. A trial opens many runs, of which one alone is the sweep's: so the
variables are taken out of the environment first, and the one run is given them.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.trackers.mirror import LOG_WARNING, Mirror, Warn
from harness.trackers.wandb_mode import settle_wandb_mode
from harness.trackers.weights_and_biases import (
    WandbDoor,
    WandbTracker,
    check_wandb,
    service_ends_on_error,
    show_over_tokens,
)

ROWS = "STEELYARD_SWEEP_ROWS"
"""Environment variable: a file to which rows are written as they come, one JSON object a line."""
_OF_THE_RUN = ("SWEEP_ID", "RUN_ID", "SWEEP_PARAM_PATH", "RUN_GROUP", "NAME", "RESUME")
# What the SDK itself ends a run with that was interrupted; others than 0 and it count as failed.
_EXIT_CODES = {"finished": 0, "stopped": 255}


@dataclass(frozen=True)
class AgentRun:
    """What an agent has said of the run that it started."""

    run_id: str
    sweep_id: str | None
    """None where there is no server, in `steelyard sweep local`."""
    group: str | None
    rows: Path | None


def take_agent_run(environ: MutableMapping[str, str]) -> AgentRun | None:
    """Return what an agent has said and remove it from `environ`; None where no agent did."""
    rows = environ.get(ROWS)
    if not environ.get("WANDB_RUN_ID") or not (rows or environ.get("WANDB_SWEEP_ID")):
        return None
    said = {name: environ.pop(f"WANDB_{name}", None) for name in _OF_THE_RUN}
    environ.pop(ROWS, None)
    assert said["RUN_ID"] is not None
    return AgentRun(
        run_id=said["RUN_ID"],
        sweep_id=said["SWEEP_ID"],
        group=said["RUN_GROUP"],
        rows=Path(rows) if rows else None,
    )


class SweepRunTracker:
    """Takes rows in place of records: `{"step": 4, "numbers": {"tuning/objective": 5.1}}`."""

    def __init__(self, door: WandbDoor) -> None:
        """Open the run through `door`, and close it there."""
        self._door = door
        self._run: Any = None

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open the run; `header` has its `run_id`, its `sweep_id` or None, and its `config`."""
        self._run = self._door.open(
            header["sweep_id"],
            id=header["run_id"],
            group=group,
            job_type="trial",
            config=dict(header["config"]),
        )
        show_over_tokens(self._run)

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one row."""
        with service_ends_on_error():
            # With an explicit step, a resumed online run ignores the rows it already has.
            self._run.log(dict(record["numbers"]), step=record["step"])

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Close the run, with `costs` in its summary."""
        with service_ends_on_error():
            self._run.summary.update({"status": status, **costs})
            self._door.close(self._run, _EXIT_CODES.get(status, 1))

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
        """Do nothing: a trial has no report."""


def open_agent_run(
    out: Path, run_id: str, warn: Warn = LOG_WARNING, mode: str | None = None
) -> tuple[Mirror, Mirror]:
    """Return mirrors of rows and of records: of the agent's run, and of the trial's own runs.

    The latter have `trial = run_id` in their config. Both are empty where W&B is disabled, or not
    there, which is told; W&B's trouble is no trial's.
    """
    try:
        settled = settle_wandb_mode(mode, warn)
        if settled == "disabled":
            return Mirror({}), Mirror({})
        check_wandb()
    except ValueError as error:
        warn(f"nothing is shown in W&B: {error}")
        return Mirror({}), Mirror({})
    members = WandbTracker(out, settled, warn, config={"trial": run_id})
    trial = SweepRunTracker(WandbDoor(out, settled, warn))
    return Mirror({"wandb": trial}, None, warn), Mirror({"wandb": members}, out, warn)
