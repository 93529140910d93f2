"""Where the W&B SDK puts its files, and how a run that was written offline is uploaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def confine_wandb(folder: Path) -> None:
    """Keep the SDK's files out of the user's home folder, unless the user has placed them."""
    folder.mkdir(parents=True, exist_ok=True)  # the SDK would silently go to the system's /tmp
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "data"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    # The SDK's own telemetry waits 20 s at exit for a server that accepts and never answers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.pop("WANDB_SERVICE", None)  # a service that is not ours cannot be restarted


def sync(folder: Path, seconds: float) -> bool:
    """Upload an offline run; return whether all of it has arrived in time."""
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
    )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its service too, which may be waiting still
        process.wait()
