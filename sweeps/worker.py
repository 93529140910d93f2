"""A worker of a study: it takes a trial, carries it out, tells Optuna, and takes the next.

Any number of workers may be at one study, on one machine or many. Trials are taken under a lock in
the output folder, so that no worker asks for a trial that another has just been given; where
workers share no folder, the trial that Optuna makes up instead has no slot, and is given back.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock

from harness.errors import SpecError
from sweeps.search import num_evaluations, sampler, suggest
from sweeps.storage import (
    BEAT_SECONDS,
    GRACE_SECONDS,
    SLOT,
    WORKER,
    Reaper,
    claim,
    open_storage,
    pulse,
    requeue,
)
from sweeps.study import REASON, load, num_running, num_waiting
from sweeps.studyfile import OVER_STEPS, Study
from sweeps.trial import Bench, PrunedRunError, TrialResult
from sweeps.watching import Curve, Stop

POLL_SECONDS = 2.0


class StoppedError(Exception):
    """The worker was asked to stop; its trial goes on when the study does."""


class _LostTrialError(BaseException):
    """The trial is another worker's by now; no Exception, so that Optuna tells nobody of it."""


class FailedTrialError(Exception):
    """A trial that cannot be carried out; the message says why, in one line."""


@dataclass(frozen=True)
class Event:
    """What a worker tells of a trial."""

    kind: str  # took, seed, complete, pruned, failed, lost, stopped, reaped
    arm: str
    number: int
    text: str = ""


@dataclass
class Worker:
    """One process at work on a study."""

    study: Study
    out: Path
    url: str
    tell: Callable[[Event], None] = print
    stop: Stop = lambda: False
    beat: int = BEAT_SECONDS
    grace: int = GRACE_SECONDS
    _turn: FileLock = field(init=False)
    _bench: Bench = field(init=False)

    def __post_init__(self) -> None:
        folder = self.out / "studies"
        folder.mkdir(parents=True, exist_ok=True)
        self._turn = FileLock(folder / f".{self.study.asked.name}.lock")
        self._bench = Bench(self.study, self.out, say=lambda _: None)

    def work(self) -> None:
        """Carry out trials until no slot is left, also those that others leave behind."""
        storage = open_storage(self.url, self.beat, self.grace)
        studies = {arm: load(self.study, arm, storage) for arm in self.study.asked.arms}
        reaper = Reaper(storage, self.grace)
        while not self.stop():
            for arm, found in studies.items():
                for number in reaper.reap(found):
                    self.tell(Event("reaped", arm, number))
            waiting = {arm: num_waiting(found) for arm, found in studies.items()}
            if any(waiting.values()):
                arm = max(waiting, key=lambda one: waiting[one])  # all arms advance together
                self._take(arm, studies[arm], storage)
            elif any(num_running(found, 2 * self.grace) for found in studies.values()):
                time.sleep(POLL_SECONDS)  # its worker may die, and leave the trial to us
            else:
                return

    def _take(self, arm: str, found: optuna.Study, storage: Any) -> None:
        self._turn.acquire()
        try:
            if not claim(found, storage):
                return
            found.optimize(
                lambda trial: self._objective(arm, found, trial, storage),
                n_trials=1,
                catch=(FailedTrialError, StoppedError),
            )
        except _LostTrialError:
            pass  # we were believed dead, and the trial is another's by now
        except ValueError as error:
            if "Cannot tell" not in str(error):  # Optuna's words for the same, at the very end
                raise
        finally:
            self._turn.release(force=True)

    def _objective(self, arm: str, found: optuna.Study, trial: optuna.Trial, storage: Any) -> Any:
        self._turn.release(force=True)
        found.sampler = sampler(self.study, arm, trial.number)
        if SLOT not in trial.user_attrs:
            trial.set_user_attr(REASON, "no slot was left")
            raise FailedTrialError("no slot was left")
        trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
        self.tell(Event("took", arm, trial.number))
        with pulse(trial, storage, self.beat):
            try:
                values = self._carry_out(arm, trial)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.tell(Event("lost", arm, trial.number))
                raise _LostTrialError from None
            except PrunedRunError as pruned:
                for name, fact in pruned.spent.items():
                    trial.set_user_attr(name, fact)
                self.tell(Event("pruned", arm, trial.number))
                raise optuna.TrialPruned from None
            except StoppedError:
                requeue(found, found.trials[trial.number])
                self.tell(Event("stopped", arm, trial.number))
                raise
            except FailedTrialError as error:
                trial.set_user_attr(REASON, str(error))
                self.tell(Event("failed", arm, trial.number, str(error)))
                raise
        self.tell(Event("complete", arm, trial.number, f"{values[0]:.4f}"))
        return values if self.study.asked.overhead else values[0]

    def _carry_out(self, arm: str, trial: optuna.Trial) -> tuple[float, ...]:
        """Train the seeds of a trial; return its objectives."""
        from harness.loop import InterruptedRunError
        from harness.runner import one_line

        asked, result = self.study.asked, TrialResult()
        values = suggest(trial, self.study.parameters(arm))
        try:
            specs = self._bench.specs(arm, values)
            ordered = {seed: specs[seed] for seed in self._order(trial)}
            for one in self._bench.seeds(ordered, self._curve(trial), None, self.stop):
                result.seeds.append(one)
                for name, fact in result.facts().items():
                    trial.set_user_attr(name, fact)
                self.tell(Event("seed", arm, trial.number, f"seed {one.seed}: {one.loss:.4f}"))
                if self._is_settled(trial, one.seed, one.loss):
                    break
            if asked.max_overhead is not None:
                trial.set_constraint("overhead", result.overhead_share - asked.max_overhead)
        except InterruptedRunError:
            raise StoppedError from None
        except (PrunedRunError, optuna.exceptions.OptunaError):
            raise
        except SpecError as error:
            raise FailedTrialError(str(error)) from None
        except (Exception, SystemExit) as error:  # of a plan, say; the study goes on
            raise FailedTrialError(one_line(error)) from error
        return (result.loss, result.mean_overhead_seconds) if asked.overhead else (result.loss,)

    def _order(self, trial: optuna.Trial) -> list[int]:
        """Return the seeds as they are trained: at random for Wilcoxon, which the order may bias.

        Where the first seed's curve is compared between trials, it is the same seed in all of them.
        """
        seeds = list(self.study.asked.seeds)
        if self.study.asked.pruner == "wilcoxon":
            random.Random(f"{self.study.asked.name}/{trial.number}").shuffle(seeds)
        return seeds

    def _curve(self, trial: optuna.Trial) -> Curve | None:
        if self.study.asked.pruner not in OVER_STEPS:
            return None
        every, most = self.study.ablation.evaluation.every, num_evaluations(self.study)

        def hear(step: int, loss: float) -> bool:
            number = min(most, -(-step // every))
            trial.report(loss, number)
            return number < most and trial.should_prune()

        return hear

    def _is_settled(self, trial: optuna.Trial, seed: int, loss: float) -> bool:
        """Report a seed's loss; tell whether the seeds so far are worse than the best's."""
        if self.study.asked.pruner != "wilcoxon":
            return False
        trial.report(loss, self.study.asked.seeds.index(seed))
        return trial.should_prune()
