"""Who looks on while a model is fine-tuned: the bar, the trackers, Ctrl-C, and a log of memory.

Records may not hold what differs between a run and the same run resumed, so memory and the clock
go to a file beside them: one line a second at most, and one for each evaluation.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import HEADER

if TYPE_CHECKING:
    from harness.spec import RunSpec
    from harness.trackers import Mirror

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 20.0


class FineTuning:
    """A `harness.loop.Watch` of one run in this process."""

    def __init__(
        self, spec: RunSpec, name: str, mirror: Mirror, looks: Path, advance: Callable[[int], None]
    ) -> None:
        """Follow the run of `spec`, mirrored under the attribution's `name`."""
        self._spec, self._name, self._mirror = spec, name, mirror
        self._looks, self._advance = looks, advance
        self._step, self._looked, self._stops = 0, 0.0, False

    def found(self, folder: Path) -> None:
        """Mirror a run that was finished before."""
        if (folder / HEADER).exists():
            self._mirror.replay(folder, self._name, self._spec.label)

    def begin(self, header: dict[str, Any]) -> None:
        """Open the run at the trackers."""
        self._mirror.start(header, self._name, self._spec.label)

    def end(self, header: dict[str, Any]) -> None:
        """Close it there."""
        self._mirror.finish(header["status"], header["costs"])

    def resumed(self, records: list[dict[str, Any]]) -> None:
        """Move on to where an interrupted run was."""
        for record in records:
            self._mirror.log(record, patience=PATIENCE_SECONDS)
        self._reach(max((record["step"] for record in records), default=0))

    def record(self, record: dict[str, Any]) -> None:
        """Pass a record on, and look at the memory now and then."""
        self._mirror.log(record)
        self._reach(record["step"])
        now = time.monotonic()
        if record["kind"] == "eval" or now - self._looked > LOOK_SECONDS:
            self._looked = now
            look = {"step": record["step"], "bytes": memory(self._spec.device)}
            with self._looks.open("a") as file:
                file.write(json.dumps({**look, "time": round(time.time(), 3)}) + "\n")

    def _reach(self, step: int) -> None:
        self._advance(step - self._step)
        self._step = step

    def stop(self) -> bool:
        """Tell whether the user has asked to stop."""
        return self._stops

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run after it has saved itself; a second one at once."""
        asked = (signal.SIGINT, signal.SIGTERM)
        before = {int(number): signal.getsignal(number) for number in asked}

        def ask(number: int, _: Any) -> None:
            self._stops = True
            signal.signal(number, before[number])

        for number in asked:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for heard, handler in before.items():
                signal.signal(heard, handler)


def memory(device: str) -> int:
    """Return the bytes that the process holds now: resident, or allocated on the GPU."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import os

    return pages * os.sysconf("SC_PAGE_SIZE")
