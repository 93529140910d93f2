"""Tasks one after another over the ranks that torchrun has started: rank 0 leads, others follow.

Rank 0 does what a parent of worker processes does, and hands every rank the next task; all carry it
out in step. A follower has no trackers, shows nothing and writes nothing, and ends when rank 0 has
no more tasks, or is gone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.grid import LookUp, OnOutcome, taking_signals
from harness.leases import open_leases
from harness.ranks.group import Group
from harness.trackers import open_trackers
from harness.worker import Desk, Notice, Outcome, Progress, Site, Task, carry_out

if TYPE_CHECKING:
    from harness.ranks import Ranks


@cache
def _group() -> Group:
    return Group()


@contextmanager
def leading() -> Iterator[None]:
    """Let the followers end when rank 0 has nothing more for them, whatever ends it."""
    try:
        yield
    finally:
        with suppress(Exception):  # torchrun ends who is left
            _group().post_task(None)


@dataclass
class RankGrid:
    """The ranks as a crew for tasks; of rank 0."""

    site: Site
    on_progress: Callable[[Progress], None]
    on_notice: Callable[[str], None] = print
    _stop: Any = field(default_factory=lambda: SimpleNamespace(value=0))

    def warm_up(self) -> None:
        """Do nothing: every rank imports torch as it starts."""

    def send(self, message: Outcome | Progress | Notice) -> None:
        """Show a message of the task that is carried out."""
        if isinstance(message, Progress):
            self.on_progress(message)

    def run(
        self, tasks: list[Task], on_outcome: OnOutcome, look_up: LookUp = lambda task: None
    ) -> bool:
        """Carry out all tasks that nobody has done; return False where the user stopped them."""
        site, group = self.site, _group()
        leases = open_leases(site.out, site.leases, site.grace)
        mirror = open_trackers(site.trackers, site.out, site.wandb_mode, self.on_notice)
        with taking_signals(self._ask_to_stop):
            for task in tasks:
                known = Outcome("interrupted") if self._stop.value else look_up(task)
                if known is not None:
                    on_outcome(task, known)
                    continue
                group.post_task((task, site))
                ranks = _ranks(site.parallel, task.spec.device)
                outcome = carry_out(task, Desk(self, site, self._stop, mirror, leases, ranks))
                on_outcome(task, outcome)
                group.end_task(outcome.reason)
                if group.is_broken:
                    raise SystemExit(1)  # and torchrun starts all anew, where it is told to
        return not self._stop.value

    def close(self) -> None:
        """Do nothing: `leading` ends the followers."""

    def _ask_to_stop(self) -> None:
        self._stop.value = 1


class _Silent:
    """Where a follower's messages go."""

    def send(self, message: Outcome | Progress | Notice) -> None:
        """Drop a message."""


def follow() -> int:
    """Carry out what rank 0 hands over until it has no more; return the exit code."""
    stop = SimpleNamespace(value=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; rank 0 decides
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "value", 1))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    group = _group()
    while (given := group.next_task(lambda: bool(stop.value))) is not None:
        task, site = given
        mirror = open_trackers((), site.out, None, _ignore)
        ranks = _ranks(site.parallel, task.spec.device)
        outcome = carry_out(task, Desk(_Silent(), site, stop, mirror, None, ranks))
        group.end_task(outcome.reason)
    return 130 if stop.value else 0


def _ignore(_: str) -> None:
    """Say nothing: rank 0 does."""


@cache
def _ranks(parallel: str, device: str) -> Ranks:
    from harness.ranks.replicated import Replicated
    from harness.ranks.sharded import Sharded

    group = _group()
    group.connect(device)
    return Sharded(group) if parallel == "fsdp" else Replicated(group)
