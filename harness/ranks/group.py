"""The processes that torchrun has started: what they tell one another, and how they part.

Words go through the store that torchrun keeps: tasks, rank 0's findings, and why a rank failed.
They can take any time, so whoever waits for them looks now and then; torchrun ends who waits for a
process that is gone. Numbers go by collectives, whose limit is TIMEOUT. A failure that all ranks
meet, a loss that is not finite, say, ends a run and no more. One that a rank meets alone ends the
group, because the others wait for it in a collective: it says so in one line and goes, which ends
their waiting, and rank 0 records the reason.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=20)
# Within so many seconds of a failure all ranks have met it, if it is one that all meet.
PATIENCE = 8.0


class RanksPartedError(Exception):
    """Rank 0 is no longer at what this rank waits for it to tell."""


class Group:
    """This process among its peers."""

    def __init__(self) -> None:
        """Meet the peers by what torchrun has put into the environment."""
        store, self.rank, self.size = next(rendezvous("env://"))
        # torchrun may start all anew, on the store of the group that was
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store: Any = PrefixStore(f"attempt/{attempt}", store)
        self.on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.is_broken = False
        self._told = self._tasks = 0

    def connect(self, device: str) -> None:
        """Open the collectives, on the device that training is to run on."""
        if dist.is_initialized():
            return
        backend = "gloo"
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore("collectives", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )

    # From rank 0 to the others

    def post_task(self, task: Any) -> None:
        """Hand all ranks their next task; None is the end."""
        self._tasks += 1
        self.store.set(f"task/{self._tasks}", pickle.dumps(task))

    def next_task(self, stopped: Callable[[], bool]) -> Any:
        """Return the next task, or None where there is none."""
        self._tasks += 1
        while not self._has([f"task/{self._tasks}"], 0.5):
            if stopped():
                return None
        return pickle.loads(self.store.get(f"task/{self._tasks}"))

    def first(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returns on rank 0; RanksPartedError where it has failed there."""
        self._told += 1
        key = f"told/{self._tasks}/{self._told}"
        if self.rank == 0:
            value = make()
            self.store.set(key, pickle.dumps(value))
            return value
        while not self._has([key], 0.5):
            if self.store.check([self._key("ended", 0)]) and not self.store.check([key]):
                raise RanksPartedError("rank 0 has ended the task")
        return pickle.loads(self.store.get(key))

    def _has(self, keys: list[str], seconds: float) -> bool:
        """Tell whether all keys are there, `seconds` from now at the latest."""
        end, pause = time.monotonic() + seconds, 0.001
        while not self.store.check(keys):  # its own `wait` writes to stderr when time is up
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(0.1, 2 * pause)
        return True

    # How a task ends

    def _key(self, what: str, rank: int) -> str:
        return f"{what}/{self._tasks}/{rank}"

    def _keys(self, what: str) -> list[str]:
        return [self._key(what, rank) for rank in range(self.size)]

    def tell_failure(self, error: BaseException, reason: str) -> str:
        """Tell the peers why this rank failed; return the reason that is behind it, if one is.

        A rank whose peer has gone fails too, and what it says is of no use.
        """
        self.store.set(self._key("failed", self.rank), reason)
        if not _is_of_peers(error):
            return reason
        self.is_broken = True
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for rank in range(self.size):
                if rank != self.rank and self.store.check([self._key("failed", rank)]):
                    return f"rank {rank}: {self.store.get(self._key('failed', rank)).decode()}"
            time.sleep(0.1)
        return f"another rank is gone, or silent for too long ({type(error).__name__})"

    def end_task(self, reason: str | None) -> None:
        """Meet the peers at the end of a task; `reason` is why it failed, None where it did not.

        Where one has not come, the group is over: a follower ends here, with one line.
        """
        self._told = 0
        if reason is not None and not self.store.check([self._key("failed", self.rank)]):
            self.store.set(self._key("failed", self.rank), reason)
        self.store.set(self._key("ended", self.rank), "")
        if not self.is_broken:
            is_shared = reason is None or self._has(self._keys("failed"), PATIENCE)
            self.is_broken = not (is_shared and self._has(self._keys("ended"), 60 * PATIENCE))
        if self.is_broken and self.rank:
            text = reason or "its peers are gone"
            print(f"steelyard: rank {self.rank} failed: {text}", file=sys.stderr, flush=True)
            os._exit(1)  # at once: what it holds open is what its peers wait for


def _is_of_peers(error: BaseException) -> bool:
    """Tell whether an error says that another rank is gone, rather than what it is about."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(n in text for n in ("gloo", "nccl", "peer"))
