"""The workers that one command starts: processes with a pipe each, replaced when they die.

A worker that is killed loses nothing but time: Optuna gives its trial to another once its heartbeat
has stopped for long enough. Ctrl-C asks all to stop; each saves its run, and the study goes on from
there when the same command is given again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

from harness.grid import interrupts_held
from sweeps.studyfile import FindMethod, Study, load_study
from sweeps.worker import Event, Worker

MAX_DEATHS = 5  # of workers in one command; more is no accident
STOP_SECONDS = 60.0  # to save what they are at, where it is the command that has failed
Ending = Literal["finished", "stopped", "died"]


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    path: Path
    out: Path
    url: str
    beat: int
    grace: int


def _work(pipe: Any, stop: Any, job: Job, find_method: FindMethod) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "value", 1))
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    study = load_study(job.path, find_method)
    Worker(
        study,
        job.out,
        job.url,
        tell=pipe.send,
        stop=lambda: bool(stop.value),
        beat=job.beat,
        grace=job.grace,
    ).work()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # as if killed: the trial is retried, and goes on from its last checkpoint


@dataclass
class Crew:
    """Some workers on one study."""

    study: Study
    job: Job
    hear: Callable[[Event], None]
    say: Callable[[str], None]
    _context: Any = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    _stop: Any = field(init=False)
    _pipes: dict[Any, Any] = field(default_factory=dict)  # pipe -> process

    def __post_init__(self) -> None:
        self._stop = self._context.RawValue("b", 0)

    def work(self, num_workers: int) -> Ending:
        """Work until no trial is left; return how it ended."""
        asked = threading.Event()

        def ask(*_: object) -> None:
            if asked.is_set():
                self._kill()
            asked.set()
            self._stop.value = 1

        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        deaths = 0
        try:
            for _ in range(num_workers):
                self._hire()
            while self._pipes:
                for pipe in connection.wait(list(self._pipes)):
                    deaths += self._listen(pipe)
                    if deaths > MAX_DEATHS:
                        self._stop.value = 1
        finally:
            self._stop.value = self._stop.value or bool(self._pipes)  # what failed is our own
            for process in self._pipes.values():
                process.join(STOP_SECONDS)
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        if asked.is_set():
            return "stopped"
        return "died" if deaths > MAX_DEATHS else "finished"

    def _kill(self) -> None:
        for process in self._pipes.values():
            process.kill()

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        arguments = (theirs, self._stop, self.job, self.study.find_method)
        process = self._context.Process(target=_work, args=arguments)
        with interrupts_held():
            process.start()
        theirs.close()
        self._pipes[ours] = process

    def _listen(self, pipe: Any) -> int:
        """Take one message; return 1 where the worker has died, which is replaced."""
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return self._bury(pipe)
        self.hear(message)
        return 0

    def _bury(self, pipe: Any) -> int:
        process = self._pipes.pop(pipe)
        process.join()
        pipe.close()
        if process.exitcode == 0:
            return 0
        cause, after = f"exit code {process.exitcode}", "`study retry` queues what has failed"
        if process.exitcode < 0:
            cause = f"killed by {signal.Signals(-process.exitcode).name}"
            after = "what it was at will be tried again"
        self.say(f"worker {process.pid} ended: {cause}; {after}")
        if not self._stop.value:
            self._hire()
        return 1
