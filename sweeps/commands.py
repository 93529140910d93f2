"""`steelyard study ...`: what each command does, and what it prints."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from harness import study_forms as forms
from harness.errors import SpecError
from harness.preflight import make_writable
from harness.resolve import num_cores, resolve
from sweeps import findings, tables
from sweeps.storage import open_storage, without_password
from sweeps.study import create, importances, load, retry_failed, rows
from sweeps.studyfile import FindMethod, Study, load_study
from sweeps.trial import Bench


def carry_out(command: Any, rest: list[str], console: Console, find_method: FindMethod) -> int:
    """Do what a form of `steelyard study` or `steelyard sweep` asks; return the exit code."""
    if isinstance(command, forms.SweepLocal):
        from sweeps.local import run_sweep

        return run_sweep(command, console)
    study = load_study(command.study, find_method)
    if isinstance(command, forms.SweepWrite):
        from sweeps.wandb_files import write_sweeps

        for path in write_sweeps(study, command.to):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)
        return 0
    doing: dict[type, Callable[..., int]] = {
        forms.StudyCreate: _create,
        forms.StudyRun: _run,
        forms.StudyStatus: _status,
        forms.StudyBest: _best,
        forms.StudyRetry: _retry,
        forms.StudyPromote: _promote,
        forms.StudySpace: _space,
    }
    if isinstance(command, forms.StudyTrial):
        from sweeps.single import run_trial

        return run_trial(study, command, rest)
    return doing[type(command)](study, command, console)


def storage_url(command: Any) -> str:
    """Return where Optuna's studies lie."""
    default = f"sqlite:///{command.out / 'studies.db'}"
    return command.storage or os.environ.get("OPTUNA_STORAGE") or default


def public_url(command: Any) -> str:
    """Return where Optuna's studies lie, as files and terminals may say it."""
    return without_password(storage_url(command))


def open_existing(command: Any) -> Any:
    """Return the storage; SpecError where nobody has made it yet."""
    url = storage_url(command)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        fix = f"steelyard study create {command.study} --out {command.out}"
        raise SpecError(f"--storage: {url} is not there; make it by {fix}")
    return open_storage(url)


def _prepare(study: Study, command: Any, console: Console) -> Any:
    """Make folder, storage and studies, by one process at a time; return the storage."""
    make_writable(command.out)
    (command.out / "studies").mkdir(exist_ok=True)
    with FileLock(command.out / "studies" / ".create.lock"):
        storage = open_storage(storage_url(command))
        create(study, storage)
    return storage


def _create(study: Study, command: Any, console: Console) -> int:
    _prepare(study, command, console)
    arms, asked = ", ".join(study.asked.arms), study.asked
    seeds = f"{len(asked.seeds)} seed{'' if len(asked.seeds) == 1 else 's'}"
    console.print(f"{asked.trials} trials of each of {arms}, {seeds} each", highlight=False)
    for arm in asked.arms:
        shown = f"optuna trials --storage {public_url(command)} --study-name"
        console.print(f"{shown} {study.optuna_name(arm)}", soft_wrap=True, highlight=False)
    if asked.overhead:
        console.print("two objectives: a front instead of one best, and no pruning", style="dim")
    return 0


def _run(study: Study, command: Any, console: Console) -> int:
    from sweeps.crew import Crew, Job
    from sweeps.display import StudyDisplay

    if command.workers is not None and command.workers < 1:
        raise SpecError(f"--workers: must be at least 1, got {command.workers}")
    if command.grace < 4:
        raise SpecError(f"--grace: must be at least 4 seconds, got {command.grace}")
    storage = _prepare(study, command, console)
    display = StudyDisplay(console, study, storage)
    Bench(study, command.out, display.say).check()
    beat = max(1, min(10, command.grace // 3))
    job = Job(study.path, command.out, storage_url(command), beat, command.grace)
    with display:
        completed = Crew(study, job, display.hear, display.say).work(_num_workers(study, command))
    _record(study, command, storage)
    _show(study, storage, console)
    _draw(study, command, console)
    if not completed:
        console.print("stopped; the same command goes on from what is saved")
        return 130
    done = [tables.counted(rows(load(study, arm, storage))) for arm in study.asked.arms]
    return 0 if all(counts["complete"] for counts in done) else 1


def _num_workers(study: Study, command: Any) -> int:
    spec = next(iter(resolve(study.ablation, "").values()))
    fitting = 1 if spec.device == "cuda" else max(1, num_cores() // spec.threads)
    return command.workers or fitting


def _status(study: Study, command: Any, console: Console) -> int:
    storage = open_existing(command)
    console.print(tables.status({arm: rows(load(study, arm, storage)) for arm in study.asked.arms}))
    return 0


def _best(study: Study, command: Any, console: Console) -> int:
    storage = open_existing(command)
    _record(study, command, storage)
    _show(study, storage, console)
    _draw(study, command, console)
    return 0


def _draw(study: Study, command: Any, console: Console) -> None:
    """Write the study's page; reports are resolved by name, as at the command line's edge."""
    page = importlib.import_module("reports.study_page")
    path = page.write(command.out, study.asked.name)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


def _show(study: Study, storage: Any, console: Console) -> None:
    for arm in study.asked.arms:
        found = load(study, arm, storage)
        facts = findings.of_arm(study, arm, rows(found), importances(found))
        console.print(tables.best(arm, facts))


def _retry(study: Study, command: Any, console: Console) -> int:
    storage = open_existing(command)
    for arm in study.asked.arms:
        number = retry_failed(load(study, arm, storage))
        console.print(f"{arm}: {number} failed trial{'' if number == 1 else 's'} queued again")
    return 0


def _promote(study: Study, command: Any, console: Console) -> int:
    from sweeps.promote import promote

    storage = open_existing(command)
    found = {arm: rows(load(study, arm, storage)) for arm in study.asked.arms}
    _record(study, command, storage)
    for line in promote(study, found, command, public_url(command)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _space(study: Study, command: Any, console: Console) -> int:
    from sweeps.study import search_space_json

    if command.arm not in study.asked.arms:
        known = ", ".join(study.asked.arms)
        raise SpecError(f"ARM: {command.arm!r} is not tuned by this study; choose from {known}")
    print(search_space_json(study, command.arm))
    return 0


def _record(study: Study, command: Any, storage: Any) -> Path:
    """Write what reports read of the study."""
    arms = {}
    for arm in study.asked.arms:
        found = load(study, arm, storage)
        arms[arm] = findings.of_arm(study, arm, rows(found), importances(found))
    said = shlex.join(["steelyard", *sys.argv[1:]]).replace(
        storage_url(command), public_url(command)
    )
    return findings.write(study, command.out, arms, public_url(command), said)
