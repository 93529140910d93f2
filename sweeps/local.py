"""`steelyard sweep local`: a W&B sweep file without a server, its settings drawn by Optuna.

Grid, random and bayes (as TPE) go on where they were stopped: what has been drawn is an Optuna
study in OUT/studies.db, called `sweep.NAME`, beside those of `steelyard study`. Runs go one after
another. W&B's early termination compares runs at the same number of values, and so does Optuna's
hyperband, whose brackets each begin at another one: fewer runs are ended than W&B would end.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from harness.errors import SpecError
from harness.identity import to_json
from harness.preflight import make_writable
from harness.rng import key
from sweeps import tables
from sweeps.launch import Launch, Listener
from sweeps.stopping import StopRequest
from sweeps.storage import open_storage, requeue
from sweeps.sweepfile import Scalar, Sweep, SweptParameter, load_sweep

ASKED, RUN, REASON, STOPPED = "asked", "run_id", "reason", "stopped"  # user attributes
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def run_sweep(command: Any, console: Any) -> int:
    """Run a sweep; return 0, 1 where no run has a result, 130 where it was stopped."""
    sweep = load_sweep(command.file)
    limit = _limit(sweep, command)
    out = command.out
    make_writable(out)
    (out / "studies").mkdir(exist_ok=True)
    lock = FileLock(out / "studies" / f".sweep.{sweep.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SpecError(f"--out: another process is at {sweep.name!r} in {out}; wait") from None
    with lock:
        study = _open(sweep, command)
        with StopRequest() as stop:
            _LocalSweep(sweep, study, out, limit, console, stop).run()
    done = [_row(trial) for trial in study.get_trials(deepcopy=False) if _counts(trial)]
    console.print(tables.runs(sweep.name, sweep.metric.name, done, sweep.metric.goal))
    console.print(
        f"to show them in W&B: wandb sync {out}/wandb/offline-run-*", soft_wrap=True, markup=False
    )
    if stop:
        console.print("stopped; the same command goes on from what is saved")
        return 130
    return 0 if any(row["state"] in ("complete", "pruned") for row in done) else 1


def _limit(sweep: Sweep, command: Any) -> int:
    """Return how many runs there are to be."""
    if command.runs is not None and command.runs < 1:
        raise SpecError(f"--runs: must be at least 1, got {command.runs}")
    limit: int | None = command.runs or sweep.run_cap
    if sweep.method == "grid":
        size = math.prod(len(p.points() or ()) for p in sweep.parameters.values())
        return size if limit is None else min(size, limit)
    if limit is None:
        where = f"{command.file}: run_cap: is missing"
        raise SpecError(
            f"{where}, and a {sweep.method} sweep has no end; add it, or give --runs 10"
        )
    return limit


def _open(sweep: Sweep, command: Any) -> optuna.Study:
    """Return the sweep's study, made where it is not there; SpecError where it is another's."""
    with FileLock(command.out / "studies" / ".create.lock"):
        storage = open_storage(f"sqlite:///{command.out / 'studies.db'}")
        name, direction = f"sweep.{sweep.name}", sweep.metric.goal
        made = optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True
        )
    whole = to_json(sweep)
    asked = {k: whole[k] for k in ("method", "metric", "parameters", "command", "program")}
    before = made.user_attrs.get(ASKED, asked)
    changed = [k for k in asked if before.get(k) != asked[k]]
    if changed:
        raise SpecError(
            f"{command.file}: name: {command.out} holds another sweep {sweep.name!r}, which "
            f"differs in {', '.join(changed)}; choose another name or --out"
        )
    made.set_user_attr(ASKED, asked)
    made.set_metric_names([sweep.metric.name])
    for trial in made.get_trials(states=(TrialState.RUNNING,)):  # of a process that was killed
        requeue(made, trial)
        storage.set_trial_user_attr(trial._trial_id, STOPPED, True)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    done = len(made.get_trials(deepcopy=False))
    # so that a sweep that goes on does not draw what it has drawn
    seed = key(command.seed, sweep.name, done) % 2**32
    pruner = _pruner(sweep)
    return optuna.load_study(
        study_name=name, storage=storage, sampler=_sampler(sweep, seed), pruner=pruner
    )


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    if sweep.method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sweep.method == "bayes":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    points = {name: p.points() or [] for name, p in sweep.parameters.items() if not _is_fixed(p)}
    return optuna.samplers.GridSampler(points, seed=0)  # the order, which must stay the same


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    rule = sweep.early_terminate
    if rule is None:
        return optuna.pruners.NopPruner()
    most: Any = rule.max_iter or "auto"
    eta = int(rule.eta)
    return optuna.pruners.HyperbandPruner(rule.first, max_resource=most, reduction_factor=eta)


def _is_fixed(parameter: SweptParameter) -> bool:
    return not parameter.is_range and parameter.values is None


def suggest(trial: optuna.Trial, sweep: Sweep) -> dict[str, Scalar]:
    """Return the settings of a run, constants among them."""
    return {name: _suggest(trial, name, p, sweep.method) for name, p in sweep.parameters.items()}


def _suggest(trial: optuna.Trial, name: str, parameter: SweptParameter, method: str) -> Scalar:
    if _is_fixed(parameter):
        constant: Scalar = parameter.value
        return constant
    if method == "grid" or not parameter.is_range:
        chosen: Scalar = trial.suggest_categorical(name, parameter.points() or ())
        return chosen
    low, high, is_log = parameter.min, parameter.max, "log" in parameter.kind
    step = (1 if parameter.q is None else parameter.q) if parameter.kind.startswith("q") else None
    if step is None and parameter.kind != "int_uniform":
        return trial.suggest_float(name, low, high, log=is_log)
    if not is_log:
        step = step or 1
        high = low + math.floor((high - low) / step + 1e-9) * step
        if parameter.is_whole:
            return trial.suggest_int(name, low, high, step=step)
        return trial.suggest_float(name, low, high, step=step)
    if parameter.is_whole and step == 1:
        return trial.suggest_int(name, low, high, log=True)
    assert step is not None
    drawn = round(trial.suggest_float(name, low, high, log=True) / step) * step
    bounded: Scalar = min(max(drawn, low), high)
    return bounded


class _StoppedError(Exception):
    """The sweep was stopped; its run goes on when the sweep does."""


class _FailedError(Exception):
    """A run has no result; the message says why, in one line."""


@dataclass
class _LocalSweep:
    """A sweep at work."""

    sweep: Sweep
    study: optuna.Study
    out: Path
    limit: int
    console: Any
    stop: StopRequest
    _is_told: bool = False  # that hyperband is off

    def run(self) -> None:
        """Start one run after another until there have been enough, or the grid ends."""
        while not self.stop and self._num_done() < self.limit:
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            sampler: Any = self.study.sampler
            is_grid = isinstance(sampler, optuna.samplers.GridSampler)
            if is_grid and not waiting and sampler.is_exhausted(self.study):
                return
            caught = (_FailedError, _StoppedError)
            self.study.optimize(self._objective, n_trials=1, catch=caught)

    def _num_done(self) -> int:
        return sum(_counts(trial) for trial in self.study.get_trials(deepcopy=False))

    def _objective(self, trial: optuna.Trial) -> float:
        values = suggest(trial, self.sweep)
        launch = Launch(self.sweep, self.out, secrets.token_hex(4), values)
        trial.set_user_attr(RUN, launch.run_id)
        place = f"[{self._num_done() + 1}/{self.limit}] run {launch.run_id}"
        told = " ".join(f"{name}={tables.shown(value)}" for name, value in values.items())
        self._say(f"{place} {told}")
        listener = Listener(self.sweep.metric.name, trial, place, self.stop)
        try:
            with self.console.status(place) as listener.status:
                code = launch.run(listener)
        except BaseException:
            self._requeue(trial)
            raise
        if code and self.stop:
            self._requeue(trial)
            raise _StoppedError
        if code and listener.is_pruned:
            self._say(f"{place} ended early at {listener.values[-1]:.4f}")
            raise optuna.TrialPruned
        return self._result(trial, launch, listener, place, code)

    def _result(
        self, trial: optuna.Trial, launch: Launch, listener: Listener, place: str, code: int
    ) -> float:
        """Return a run's value; _FailedError where it has none."""
        name = self.sweep.metric.name
        value = listener.values[-1] if listener.values else launch.logged()
        if code or value is None or not math.isfinite(value):
            reason = f"exit code {code}: {launch.last_words()}"
            if not code:
                reason = f"it logged {'no' if value is None else value} {name!r}"
            trial.set_user_attr(REASON, reason)
            self._say(f"{place} failed: {reason} (all of it: {launch.log})")
            raise _FailedError(reason)
        self._say(f"{place} {name} {value:.4f}")
        if self.sweep.early_terminate and not listener.values and not self._is_told:
            self._is_told = True
            self._say("hyperband is off: this program writes no rows to STEELYARD_SWEEP_ROWS")
        return value

    def _requeue(self, trial: optuna.Trial) -> None:
        requeue(self.study, self.study.trials[trial.number])
        trial.set_user_attr(STOPPED, True)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Return whether a trial is one of the sweep's runs; one that was stopped comes again."""
    return trial.state in OVER and not trial.user_attrs.get(STOPPED)


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "run": trial.user_attrs.get(RUN, ""),
        "state": "failed" if trial.state == TrialState.FAIL else trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "params": dict(trial.params),
        "reason": trial.user_attrs.get(REASON, ""),
    }
