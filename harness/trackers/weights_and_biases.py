"""The mirror for Weights & Biases; the only file that imports its package.

W&B prompts, retries for 90 s and waits at exit, all by default. Its mode is resolved once, before
it is imported; without a credential or a reachable server it writes to OUT/wandb, from where
`wandb sync` uploads.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.trackers.mirror import LOG_WARNING, Tracker, Warn, first_line
from harness.trackers.offline_files import confine_wandb, sync
from harness.trackers.scalars import cost_scalars, flatten, is_auxiliary, run_name, scalars
from harness.trackers.wandb_mode import UNREACHABLE, WandbMode

# What is shown over tokens, and what of it a table of runs shows. One pattern must not match a
# name of another: which of two the SDK would follow is left to chance. Sweeps read the last tuning
# loss as a plain number. The minimum of a held-out loss is to look at; reports use the last.
_FAMILIES = {
    "heldout": "last,min",
    "tuning": None,
    "train": None,
    "weights": None,
    "notes": None,
    "overhead": None,
}


class WandbDoor:
    """Opens and closes runs in a mode that is resolved; offline where the server has gone."""

    def __init__(
        self, out: Path, mode: WandbMode, warn: Warn = LOG_WARNING, init_seconds: float = 12.0
    ) -> None:
        """Keep everything of W&B's under `out`; a server has `init_seconds` to take a run."""
        self.out, self.mode = out.resolve(), mode
        self._warn, self._init_seconds = warn, init_seconds

    def open(self, sweep_id: str | None = None, **run: Any) -> Any:
        """Return a W&B run; `run` is what `wandb.init` is told, `sweep_id` the sweep it joins."""
        if self.mode == "online":
            try:
                with service_ends_on_error():
                    return self._init(sweep_id, run)
            except Exception as error:
                reason = first_line(error)
                what = "W&B knows no key" if "API key" in reason else UNREACHABLE
                self._warn(f"{what} ({reason}); writing offline instead")
                self.mode = "offline"
        return self._init(sweep_id, run)

    def _init(self, sweep_id: str | None, run: Mapping[str, Any]) -> Any:
        confine_wandb(self.out / "wandb")
        import wandb

        settings = wandb.Settings(
            mode=self.mode,
            root_dir=str(self.out),
            init_timeout=self._init_seconds,
            finish_timeout=10,  # of no progress at the server; all rows are on the disk by then
            finish_timeout_raises=True,
            reinit="create_new",
            console="off",
            silent=True,  # also what forbids the SDK to prompt, on a terminal too
            symlink=False,  # `latest-run` would be fought over by parallel runs
            disable_git=True,  # run.json has the commit, and is part of the config
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        wandb.setup(settings=settings)  # the SDK logs in before it reads what init is given
        settings.sweep_id = sweep_id  # of this run alone, not of those that are opened beside it
        opened = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "steelyard"),
            resume="allow" if self.mode == "online" else None,
            settings=settings,
            **run,
        )
        os.environ.pop("WANDB_SERVICE", None)  # child processes must not share our service
        return opened

    def close(self, run: Any, exit_code: int) -> None:
        """End a run; what the server has not taken in time stays on the disk, and is told."""
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            folder = Path(run.dir).parent
            self._warn(f"W&B has not taken all of a run yet; to complete it: wandb sync {folder}")
            self.mode = "offline"


def show_over_tokens(run: Any) -> None:
    """Let a W&B run show all its families of numbers over tokens."""
    run.define_metric("tokens", hidden=True)
    for family, summary in _FAMILIES.items():
        run.define_metric(f"{family}/*", step_metric="tokens", summary=summary)


class WandbTracker:
    """One W&B run for each run, under the same id; grouped by ablation, job type by arm."""

    def __init__(
        self,
        out: Path,
        mode: WandbMode,
        warn: Warn = LOG_WARNING,
        *,
        every: int = 10,
        init_seconds: float = 12.0,
        sync_seconds: float = 40.0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Log training numbers every `every` steps; evaluations, notes and the last step always.

        A row costs the process about 0.4 ms, which a step of a nano model would feel. `config` is
        added to that of every run.
        """
        self._door = WandbDoor(out, mode, warn, init_seconds)
        self._warn, self._config = warn, config or {}
        self._every, self._sync_seconds = every, sync_seconds
        self._run: Any = None
        self._header: Mapping[str, Any] = {}
        self._row: dict[str, float] = {}
        self._step, self._is_due = 0, False

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Open a W&B run; where the server cannot be reached, offline, then and from then on."""
        self._header, self._row, self._step, self._is_due = header, {}, 0, False
        spec = header["spec"]
        facts = {k: v for k, v in header.items() if k not in ("spec", "costs", "status", "reason")}
        self._run = self._door.open(
            id=header["run_id"],
            group=group,
            name=run_name(header, label),
            job_type="auxiliary" if is_auxiliary(header) else label,
            config=flatten({**facts, **spec, "ablation": group, "arm": label, **self._config}),
        )
        show_over_tokens(self._run)

    def log(self, record: Mapping[str, Any]) -> None:
        """Gather the records of one step; they become one row when the next step begins."""
        if record["step"] != self._step:
            with service_ends_on_error():
                self._flush(self._is_due)
        self._step = record["step"]
        self._is_due |= record["kind"] != "step" or self._step % self._every == 0
        self._row |= scalars(record, self._header)

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Log the last row whatever its step, put costs into the summary, close the run."""
        with service_ends_on_error():
            found = cost_scalars(costs)
            self._row |= {
                name: number for name, number in found.items() if name.startswith("overhead/")
            }
            self._flush(True)
            self._run.summary.update({"status": status, **found})
            self._door.close(self._run, 0 if status == "finished" else 1)

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
        """Write a run for the report alone: files as an artifact, pages and tables as media.

        It is written offline and synced by a process that can be ended: for some questions about
        an artifact the SDK would wait for minutes on a server that has fallen silent.
        """
        online, self._door.mode = self._door.mode == "online", "offline"
        self._run = self._door.open(
            id=report_id,
            group=group,
            name=f"{group}-report",
            job_type="report",
            config={"ablation": group},
        )
        import wandb

        with service_ends_on_error():
            artifact = wandb.Artifact(f"{group}-report", type="report")
            shown: dict[str, Any] = {}
            for path in files:
                artifact.add_file(str(path), name=path.name)
                if path.suffix == ".html":
                    shown[path.stem] = wandb.Html(str(path), inject=False)
                elif path.suffix == ".csv":
                    shown[path.stem] = _as_table(path)
            self._run.log_artifact(artifact)
            self._run.log(shown)
            self._door.close(self._run, 0)
        folder = Path(self._run.dir).parent
        if online and not sync(folder, self._sync_seconds):
            self._warn(f"W&B has not taken the report; to complete it: wandb sync {folder}")

    def _flush(self, is_due: bool) -> None:
        if self._row and is_due:
            # With an explicit step, a resumed online run ignores the rows it already has.
            self._run.log(self._row, step=self._step)
        self._row, self._is_due = {}, False


def _as_table(path: Path) -> Any:
    """Return a CSV file as a W&B table, in which a column of numbers holds numbers."""
    import wandb

    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = [_numbers_or_text(name, [row[k] for row in rows]) for k, name in enumerate(header)]
    return wandb.Table(columns=[*header], data=[list(row) for row in zip(*columns, strict=True)])


def _numbers_or_text(name: str, cells: list[str]) -> list[float | None] | list[str]:
    if name.endswith("_id"):  # one may look like a number
        return cells
    try:
        return [float(cell) if cell else None for cell in cells]
    except ValueError:
        return cells


@contextmanager
def service_ends_on_error() -> Iterator[None]:
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


def open_wandb(out: Path, warn: Warn, mode: WandbMode = "offline") -> Tracker:
    """Return the tracker in a mode that is resolved; ValueError without its package."""
    check_wandb()
    return WandbTracker(out, mode, warn)


def check_wandb() -> None:
    """Raise ValueError where the package is not installed."""
    package = importlib.util.find_spec("wandb")
    # Without an origin it is a mere folder called wandb, such as earlier runs leave behind.
    if package is None or package.origin is None:
        raise ValueError("trackers: wandb is not installed; pip install steelyard[track]")
