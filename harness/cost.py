"""Who pays: every second, operation and token of a run goes to one of four accounts.

`train` is what any arm must do, `mixer` what the method asks for on top, `eval` and `save` what
the referee does. Sections nest and are exclusive, so the accounts add up to the time of the loop.
Peak memory is the high-water mark of the process (or of the CUDA allocator) while an account was
at work; it is read around evaluation and a method's services, not inside the training step.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

Account = Literal["train", "mixer", "eval", "save"]
ACCOUNTS: tuple[Account, ...] = ("train", "mixer", "eval", "save")


@dataclass
class Cost:
    """What an account has been charged."""

    seconds: float = 0.0
    flops: float = 0.0
    tokens: int = 0
    peak_bytes: int = 0


@dataclass
class Meter:
    """Charges costs to accounts; `device` decides how time and memory are read."""

    device: str = "cpu"
    accounts: dict[Account, Cost] = field(default_factory=lambda: {a: Cost() for a in ACCOUNTS})
    _stack: list[Account] = field(default_factory=list)
    _since: float = 0.0
    _is_training: bool = False  # the device may still be at a step that was queued

    def __post_init__(self) -> None:
        """Forget the peak of what this process did before."""
        _take_peak(self.device)

    def charge(self, account: Account, flops: float, tokens: int = 0) -> None:
        """Add operations and tokens to an account."""
        self.accounts[account].flops += flops
        self.accounts[account].tokens += tokens

    @contextmanager
    def section(self, account: Account, synchronize: bool = False) -> Iterator[None]:
        """Time what happens inside; an enclosing section stops meanwhile.

        `synchronize` waits for the device at both ends and reads the memory mark: for work that is
        rare and large. The training step has none of it.
        """
        if synchronize:
            # what ran since the last mark was training, but for a hook's own arithmetic
            self.settle()
            self._mark_peak("train")
        self._switch()
        self._stack.append(account)
        try:
            yield
        finally:
            if synchronize:
                self._mark_peak(account)
            self._switch()
            self._stack.pop()
            self._is_training = account == "train" or (self._is_training and not synchronize)

    def settle(self) -> None:
        """Wait for the device; the wait is training's where a step is still at work there."""
        if self.device != "cuda":
            return
        self._switch()
        torch.cuda.synchronize()
        now = time.perf_counter()
        if self._is_training:
            self.accounts["train"].seconds += now - self._since
            self._since = now
        self._is_training = False

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.accounts[self._stack[-1]].seconds += now - self._since
        self._since = now

    def close(self) -> None:
        """Take the last reading; the training loop has ended."""
        self._mark_peak("train")

    def _mark_peak(self, account: Account) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        cost = self.accounts[account]
        cost.peak_bytes = max(cost.peak_bytes, _take_peak(self.device))

    def to_json(self) -> dict[str, dict[str, float | int]]:
        """Return all accounts as plain values."""
        return {account: asdict(cost) for account, cost in self.accounts.items()}

    def restore(self, saved: dict[str, dict[str, float | int]]) -> None:
        """Take up the accounts of an interrupted run."""
        self.accounts = {account: Cost(**saved[account]) for account in ACCOUNTS}  # type: ignore[arg-type]


def _take_peak(device: str) -> int:
    """Return the peak in bytes since the last call, and start a new one where the system can."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return int(peak)
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
