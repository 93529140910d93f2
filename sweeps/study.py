"""Optuna studies, one for each tuned arm: their slots, their trials, and what they found.

A study begins with as many waiting trials as its file allows, its slots. Workers take one after
another, and Optuna hands out each of them once, whatever the storage: so all arms get the same
number of trials, a trial that is retried takes up no slot of another, and several workers on
several machines need no further agreement. The first slot has the spec's own settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.errors import SpecError
from harness.identity import to_json
from sweeps.search import pruner, sampler
from sweeps.space import Value
from sweeps.storage import SLOT, WORKER, requeue
from sweeps.studyfile import Study

REASON = "reason"  # user attribute of a trial: why it has failed
STATES = {state: state.name.lower() for state in TrialState} | {TrialState.FAIL: "failed"}
ASKED = "asked"  # user attribute of a study: what its file said

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Row:
    """One trial as plain data; `values` is empty where it did not complete."""

    number: int
    slot: int | None
    state: str
    values: tuple[float, ...]
    params: dict[str, Value]
    facts: dict[str, Any]
    reported: dict[int, float]
    """Objective by evaluation (or by seed, where a pruner stops between seeds)."""


def create(study: Study, storage: Any, text_ids: Mapping[str, str] | None = None) -> None:
    """Make the studies that are not there yet, with their slots; to be called by one process.

    `text_ids` are fingerprints of the text and the model. SpecError where a study of that name
    asked something else. More trials than before are added.
    """
    for arm in study.asked.arms:
        made = optuna.create_study(
            storage=storage,
            study_name=study.optuna_name(arm),
            directions=["minimize"] * (2 if study.asked.overhead else 1),
            load_if_exists=True,
        )
        made.set_metric_names(metric_names(study))
        _settle(made, study, arm, text_ids or {})
        _add_slots(made, study, arm)


def metric_names(study: Study) -> list[str]:
    """Return what is minimised."""
    loss = f"tuning loss ({study.asked.objective})"
    return [loss, "overhead seconds"] if study.asked.overhead else [loss]


def _settle(made: optuna.Study, study: Study, arm: str, text_ids: Mapping[str, str]) -> None:
    """Write down what is asked, or compare it with what was."""
    old = made.user_attrs.get(ASKED)
    new = _asked(study, arm, text_ids)
    if old is not None:
        _compare(study, old, new)
        if old["asked"]["trials"] > study.asked.trials:
            fix = f"set trials to {old['asked']['trials']} or more"
            raise SpecError(f"{study.path}: trials: the study has more already; {fix}")
    made.set_user_attr(ASKED, new)


def _asked(study: Study, arm: str, text_ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        "asked": to_json(study.asked),
        "space": to_json(study.spaces[arm]),
        "spec": {**study.identity(arm), **text_ids},
        "domains": list(study.domains),
        "weights": study.weights,
    }


def _compare(study: Study, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to take another study's trials for this one's."""
    free = ("trials", "spec", "arms")  # more trials; other places; other arms have their own study
    asked = new["asked"]
    changed = [k for k in asked if k not in free and old["asked"].get(k) != asked[k]]
    changed += [k for k in ("space", "domains") if old[k] != new[k]]
    changed += [f"spec.{k}" for k, v in new["spec"].items() if old["spec"].get(k) != v]
    # studies of before the weights were stored averaged over all domains, trained on or not
    every = dict.fromkeys(study.ablation.domains, 1 / len(study.ablation.domains))
    first = every if study.asked.objective == "mean" else new["weights"]
    changed += ["objective"] if old.get("weights", first) != new["weights"] else []
    if changed:
        raise SpecError(
            f"{study.path}: name: the storage holds another study {study.asked.name!r}, which "
            f"differs in {', '.join(changed)}; choose another name"
        )


def _add_slots(made: optuna.Study, study: Study, arm: str) -> None:
    known = {t.user_attrs.get(SLOT) for t in made.get_trials(deepcopy=False)}
    for slot in range(study.asked.trials):
        if slot not in known:
            own = study.defaults(arm) if slot == 0 else {}
            made.enqueue_trial(own, user_attrs={SLOT: slot})


def load(study: Study, arm: str, storage: Any) -> optuna.Study:
    """Return an arm's study with its sampler and pruner.

    SpecError where it was never created, or asked something else.
    """
    name = study.optuna_name(arm)
    try:
        found = optuna.load_study(
            study_name=name,
            storage=storage,
            sampler=sampler(study, arm, int.from_bytes(os.urandom(4))),
            pruner=pruner(study),
        )
    except KeyError:
        fix = f"steelyard study create {study.path}"
        raise SpecError(f"--storage: holds no study {name!r}; make it by {fix}") from None
    _compare(study, found.user_attrs[ASKED], _asked(study, arm, {}))
    return found


def num_waiting(found: optuna.Study) -> int:
    """Return the trials that nobody has taken yet."""
    return len(found.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def num_open(found: optuna.Study) -> int:
    """Return the trials that are still to be carried out, or are at it."""
    return num_waiting(found) + num_running(found)


def num_running(found: optuna.Study, young: float = 0.0) -> int:
    """Return the trials that a worker of ours is at, or was at when it died.

    One that `optuna ask` has given to somebody else may never be told, and is not waited for; but
    one that was taken less than `young` seconds ago may be ours, and not have said so yet.
    """
    running = found.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sum(WORKER in trial.user_attrs or _age(trial) < young for trial in running)


def _age(trial: FrozenTrial) -> float:
    """Return the seconds since a trial was taken, by the clock of whoever took it."""
    if trial.datetime_start is None:
        return 0.0
    return (datetime.now() - trial.datetime_start).total_seconds()


def rows(found: optuna.Study) -> list[Row]:
    """Return every trial as plain data."""
    return [
        Row(
            number=trial.number,
            slot=trial.user_attrs.get(SLOT),
            state=STATES[trial.state],
            values=tuple(trial.values or ()),
            params=dict(trial.params),
            facts={k: v for k, v in trial.user_attrs.items() if k != SLOT},
            reported=dict(trial.intermediate_values),
        )
        for trial in found.get_trials(deepcopy=False)
    ]


def retry_failed(found: optuna.Study) -> int:
    """Queue again the slots whose last trial failed, or was asked for and never told.

    Return how many. A trial that a worker of ours is at is left to it.
    """
    last = {t.user_attrs[SLOT]: t for t in found.get_trials() if SLOT in t.user_attrs}
    number = 0
    for trial in last.values():
        if trial.state == TrialState.RUNNING and WORKER not in trial.user_attrs:
            found.tell(trial.number, state=TrialState.FAIL)
        elif trial.state != TrialState.FAIL:
            continue
        requeue(found, trial)
        number += 1
    return number
