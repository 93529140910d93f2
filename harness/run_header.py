"""What run.json says of a run before it starts: from what it is made, by what, where and when."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.assemble import train_rows
from harness.data_warnings import warnings_of_run
from harness.records import SCHEMA

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.spec import RunSpec


def describe_run(spec: RunSpec, store: TokenStore) -> dict[str, Any]:
    """Return the header of a run that is about to start."""
    commit, dirty = git_state()
    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.canonical,
        "status": "running",
        "reason": None,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "targets": spec.targets,
        "num_steps": spec.num_steps,
        "tokens_per_step": spec.batch.rows * spec.batch.tokens,
        "vocab_size": store.vocab_size,
        "corpus_id": store.id,
        "train_rows": train_rows(store, spec),
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "device": spec.device,
        "device_name": _device_name(spec.device),
        "threads": spec.threads,
        "precision": spec.precision,
        "started": now(),
        "finished": None,
        "costs": {},
        "repetitions": {},
        "warnings": [w.to_json() for w in warnings_of_run(spec, store.manifest)],
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    names = ("steelyard", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


@cache
def git_state() -> tuple[str | None, bool]:
    """Return the commit of the checkout that this code lies in, and whether it is changed."""
    here = Path(__file__).parent
    commands = (
        ["git", "ls-files", "--error-unmatch", Path(__file__).name],  # or it is another's checkout
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain"],
    )
    try:
        _, commit, status = (
            subprocess.run(
                c, cwd=here, capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None, False
    return commit.strip(), bool(status.strip())


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return info.partition("model name")[2].partition("\n")[0].strip(" :\t") or platform.machine()


def now() -> str:
    """Return the time, as headers have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
