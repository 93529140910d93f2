"""The mirror for Weights & Biases; the only file that imports its package.

W&B prompts, retries for 90 s and waits at exit, all by default. Its mode is resolved once, before
it is imported; without a credential or a reachable server it writes to OUT/wandb, from where
`wandb sync` uploads.
"""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from harness.trackers.mirror import LOG_WARNING, Tracker, Warn, first_line
from harness.trackers.scalars import cost_scalars, flatten, scalars

WandbMode = Literal["online", "offline", "disabled"]

# W&B's server moved; either name may be in an older netrc file.
_WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
_WANDB_MODES: dict[str, WandbMode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",  # the SDK's older words, still accepted in WANDB_MODE
    "dryrun": "offline",
}


class WandbTracker:
    """One W&B run for each run, under the same id; grouped by ablation, job type by arm."""

    def __init__(
        self,
        out: Path,
        mode: Literal["online", "offline"],
        warn: Warn = LOG_WARNING,
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
                self._warn(f"W&B is not reachable ({first_line(error)}); writing offline instead")
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


def open_wandb(out: Path, flag: str | None, warn: Warn) -> Tracker | None:
    """Return the tracker in the mode that applies; None where W&B is disabled."""
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
