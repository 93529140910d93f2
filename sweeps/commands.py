"""`steelyard study ...`: what each command does, and what it prints."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from harness import study_forms as forms
from harness.errors import SpecError
from harness.preflight import make_writable
from harness.resolve import num_fitting, resolve
from sweeps import findings, tables
from sweeps.search import importances
from sweeps.storage import open_existing, open_storage, storage_url, without_password
from sweeps.study import create, load, num_open, retry_failed, rows
from sweeps.studyfile import FindMethod, Study, load_study
from sweeps.trial import Bench


def carry_out(
    command: Any, rest: list[str], words: list[str], console: Console, find_method: FindMethod
) -> int:
    """Do what a form of `steelyard study` or `steelyard sweep` asks; return the exit code.

    `rest` are options that are settings, `words` the whole command as it was given.
    """
    if isinstance(command, forms.SweepLocal):
        from sweeps.local import run_sweep

        return run_sweep(command, console)
    study = load_study(command.study, find_method)
    if isinstance(command, forms.SweepWrite):
        from sweeps.wandb_files import write_sweeps

        for path in write_sweeps(study, command.to):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)
        return 0
    if isinstance(command, forms.StudyTrial):
        from sweeps.single import run_trial

        return run_trial(study, command, rest)
    if isinstance(command, forms.StudySpace):
        return _space(study, command)
    doing: dict[type, Callable[[_Desk], int]] = {
        forms.StudyCreate: _create,
        forms.StudyRun: _run,
        forms.StudyStatus: _status,
        forms.StudyBest: _best,
        forms.StudyRetry: _retry,
        forms.StudyPromote: _promote,
    }
    return doing[type(command)](_Desk(study, command, words, console))


class _Desk:
    """A command on a study: where it lies, and who is told."""

    def __init__(self, study: Study, command: Any, words: list[str], console: Console) -> None:
        self.study, self.command, self.console = study, command, console
        self.out: Path = command.out
        self.url = storage_url(command.storage, command.out)
        self.shown_url = without_password(self.url)
        # a password is replaced word by word: quoting would hide it from a search
        self.words = [word.replace(self.url, self.shown_url) for word in words]

    def say(self, text: str) -> None:
        """Print a line, whole."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def prepare(self) -> Any:
        """Make folder, storage and studies, by one process at a time; return the storage."""
        make_writable(self.out)
        (self.out / "studies").mkdir(exist_ok=True)
        with FileLock(self.out / "studies" / ".create.lock"):
            storage = open_storage(self.url)
            create(self.study, storage, Bench(self.study, self.out).text_ids)
        if self.study.asked.overhead:
            self.say("two objectives: a front instead of one best, and no pruning")
        return storage

    def existing(self) -> Any:
        """Return the storage; SpecError where nobody has made it yet."""
        fix = f"steelyard study create {self.command.study} --out {self.out}"
        return open_existing(self.url, fix)

    def findings(self, storage: Any) -> dict[str, dict[str, Any]]:
        """Write what reports read of the study, and its page; return it by arm."""
        arms = {}
        for arm in self.study.asked.arms:
            found = load(self.study, arm, storage)
            arms[arm] = findings.of_arm(self.study, arm, rows(found), importances(found))
        findings.write(self.study, self.out, arms, self.shown_url, shlex.join(self.words))
        return arms

    def tell(self, storage: Any) -> None:
        """Show what was found, and where its page is."""
        for arm, facts in self.findings(storage).items():
            self.console.print(tables.best(arm, facts, self.study.asked.overhead))
        page = importlib.import_module("reports.study_page")  # by name, as the command line does
        self.say(f"report: {page.write(self.out, self.study.asked.name)}")


def _create(desk: _Desk) -> int:
    desk.prepare()
    asked = desk.study.asked
    seeds = f"{len(asked.seeds)} seed{'' if len(asked.seeds) == 1 else 's'}"
    desk.say(f"{asked.trials} trials of each of {', '.join(asked.arms)}, {seeds} each")
    for arm in asked.arms:
        shown = f"optuna trials --storage {desk.shown_url} --study-name"
        desk.say(f"{shown} {desk.study.optuna_name(arm)}")
    return 0


def _run(desk: _Desk) -> int:
    from sweeps.crew import Crew, Job
    from sweeps.display import StudyDisplay

    command, study = desk.command, desk.study
    if command.workers is not None and command.workers < 1:
        raise SpecError(f"--workers: must be at least 1, got {command.workers}")
    if command.grace < 4:
        raise SpecError(f"--grace: must be at least 4 seconds, got {command.grace}")
    storage = desk.prepare()
    display = StudyDisplay(desk.console, study, storage)
    left = sum(num_open(load(study, arm, storage)) for arm in study.asked.arms)
    ending = "finished"
    if left:
        Bench(study, desk.out, display.say).check()
        beat = max(1, min(10, command.grace // 3))
        job = Job(study.path, desk.out, desk.url, beat, command.grace)
        fitting = command.workers or num_fitting(next(iter(resolve(study.ablation, "").values())))
        with display:
            ending = Crew(study, job, display.hear, display.say).work(min(fitting, left))
    desk.tell(storage)
    if ending == "stopped":
        desk.say("stopped; the same command goes on from what is saved")
        return 130
    if ending == "died":
        desk.say("stopped: workers keep dying; the same command goes on from what is saved")
        return 1
    done = [tables.counted(rows(load(study, arm, storage))) for arm in study.asked.arms]
    asked = sum(counts["running"] + counts["waiting"] for counts in done)
    if asked:
        desk.say(f"{asked} trials are with others (optuna ask); tell them, or study retry")
    return 0 if all(counts["complete"] for counts in done) and not asked else 1


def _status(desk: _Desk) -> int:
    study, storage = desk.study, desk.existing()
    found = {arm: rows(load(study, arm, storage)) for arm in study.asked.arms}
    desk.console.print(tables.status(study, found))
    return 0


def _best(desk: _Desk) -> int:
    desk.tell(desk.existing())
    return 0


def _retry(desk: _Desk) -> int:
    storage = desk.existing()
    for arm in desk.study.asked.arms:
        number = retry_failed(load(desk.study, arm, storage))
        desk.say(f"{arm}: {number} failed trial{'' if number == 1 else 's'} queued again")
    return 0


def _promote(desk: _Desk) -> int:
    from sweeps.promote import promote

    storage = desk.existing()
    found = {arm: rows(load(desk.study, arm, storage)) for arm in desk.study.asked.arms}
    desk.findings(storage)
    for line in promote(desk.study, found, desk.command, desk.shown_url):
        desk.say(line)
    return 0


def _space(study: Study, command: Any) -> int:
    from sweeps.search import search_space_json

    study.check_arm(command.arm)
    print(search_space_json(study, command.arm))
    return 0
