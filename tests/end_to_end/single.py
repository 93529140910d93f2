"""One run in a process of its own; the server that such processes are forked from has imported it.

Forking is safe there: the server has one thread, and has computed nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import transformers.models.gpt2.modeling_gpt2  # noqa: F401

from harness.corpus import open_corpus
from harness.leases import TakenError, disk_leases, holder
from harness.loop import Loop
from harness.queued import RunFailedError
from harness.runner import Runner
from harness.spec import Checkpoint, RunSpec

OFTEN = Checkpoint(minutes=None, steps=2)


class Silent:
    """Watches a run and does nothing."""

    def found(self, folder: Path) -> None:
        """Ignore it."""

    def begin(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def end(self, header: dict[str, Any]) -> None:
        """Ignore it."""

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Ignore it."""

    def record(self, record: dict[str, Any]) -> None:
        """Ignore it."""

    def stop(self) -> bool:
        """Go on."""
        return False


class Slow(Silent):
    """Watches a run that takes a while."""

    def record(self, record: dict[str, Any]) -> None:
        """Take a moment for it."""
        time.sleep(0.02)


def ensure(out: Path, spec: RunSpec, every: Checkpoint = OFTEN) -> None:
    """Train a run, or finish it."""
    store = open_corpus(spec.corpus, out / "corpora")
    Runner(out, store, every, lambda _: Silent()).ensure(spec)


def ensure_abroad(out: Path, spec: RunSpec, grace: float) -> None:
    """Train a run as a process of another machine, whose life and death nobody can look up.

    Exits with 4 where it finds its lease gone.
    """
    holder.machine = lambda: "another machine"
    store = open_corpus(spec.corpus, out / "corpora")
    runner = Runner(
        out, store, OFTEN, lambda _: Slow(), leases=disk_leases(out, grace), waits=False
    )
    try:
        runner.ensure(spec)
    except TakenError:
        sys.exit(4)


def ensure_timed(out: Path, spec: RunSpec, told: Path) -> None:
    """Train a run; write the seconds that its loop took by a clock of our own to `told`."""
    run = Loop.run

    def timed(loop: Loop) -> None:
        start = time.perf_counter()
        run(loop)
        told.write_text(json.dumps(time.perf_counter() - start))

    Loop.run = timed  # type: ignore[method-assign]
    ensure(out, spec, Checkpoint(minutes=None, steps=10))


def ensure_on_a_full_disk(out: Path, spec: RunSpec) -> None:
    """Train a run where no file can grow over 100 kB, which a checkpoint does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        ensure(out, spec)
    except RunFailedError:
        sys.exit(3)
