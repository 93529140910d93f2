"""`steelyard run`, `steelyard work` and `steelyard report`: train, then show what came of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.leases import open_leases
from harness.ranks.launch import is_launched

if TYPE_CHECKING:
    from harness.ablate import Summary
    from harness.labor import Staff
    from harness.run_forms import Run, Work
    from harness.spec import Ablation

FindMethod = Callable[[str], type]


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of runs, or workers, that is none."""
    if jobs is not None and jobs < 1:
        raise SpecError(f"--jobs: must be at least 1, got {jobs}")


def run(
    command: Run, overrides: list[str], words: list[str], console: Any, find_method: FindMethod
) -> int:
    """Carry out `steelyard run`; return the exit code. `words` is the whole command line."""
    ablation = _load(command, overrides, find_method)

    # numpy and the corpus code take longer to import than it takes to find a mistake in a spec
    from harness.commands.launching import launched
    from harness.labor import Staff

    if command.launcher == "pool":
        if command.detach:
            raise SpecError("--detach: needs --launcher slurm, whose workers outlive this command")
        staff = Staff(command.jobs, None, command.leases, command.grace)
    else:
        if is_launched():
            raise SpecError("--launcher: torchrun has started this command; leave one of them out")
        staff = launched(command, ablation, overrides, _sayer(console))
    try:
        summary = _carry_out(ablation, command, staff, words, console)
    finally:
        if staff.fleet is not None:
            staff.fleet.close()
    if command.detach and summary.interrupted:
        _sayer(console)(f"detached; follow by: steelyard report {command.out} --watch")
        return 0
    if summary.interrupted:
        return stopped(console)
    if summary.finished and not summary.is_behind:
        report(command.out, ablation.name, console, summary.wandb_mode)
    return 1 if summary.num_failed or summary.is_behind else 0


def work(
    command: Work, overrides: list[str], words: list[str], console: Any, find_method: FindMethod
) -> int:
    """Carry out `steelyard work`; return the exit code. `words` is the whole command line."""
    ablation = _load(command, overrides, find_method)

    from harness.labor import Staff
    from harness.settled import Settled

    settled = None if command.settled is None else Settled.read(command.settled)
    shared = (command.leases, command.grace, settled)
    staff = Staff(command.jobs, None, *shared, joins=True)
    summary = _carry_out(ablation, command, staff, words, console)
    if summary.interrupted:
        return stopped(console)
    if summary.finished and not (command.no_report or summary.is_behind):
        _report_once(command, ablation.name, console, summary.wandb_mode)
    return 1 if summary.num_failed or summary.is_behind else 0


def _report_once(command: Work, name: str, console: Any, wandb_mode: str | None) -> None:
    """Write the report, unless another worker is writing the same."""
    leases = open_leases(command.out, command.leases, command.grace)
    lease = leases.take(f"report-{name}", "the report")
    if lease is None:
        console.print("all is done; another worker writes the report")
        return
    try:
        report(command.out, name, console, wandb_mode)
    finally:
        lease.give_back()


def _load(command: Run | Work, overrides: list[str], find_method: FindMethod) -> Ablation:
    from harness.specfile import load_ablation

    check_jobs(command.jobs)
    ablation = load_ablation(command.spec, overrides, find_method)
    if "heldout" not in ablation.evaluation.splits:
        raise SpecError("evaluation.splits: a comparison is read off the held-out set; add it")
    return ablation


def _carry_out(
    ablation: Ablation, command: Run | Work, staff: Staff, words: list[str], console: Any
) -> Summary:
    from harness.ablate import run_ablation
    from harness.display import TerminalDisplay

    warning = importlib.import_module("reports.power").hopeless(ablation)
    beside = (TerminalDisplay(console), words, warning, command.wandb_mode)
    return run_ablation(ablation, command.out, staff, *beside)


def stopped(console: Any) -> int:
    """Say how to go on; return the exit code."""
    console.print("stopped; the same command goes on from what is saved")
    return 130


def _sayer(console: Any) -> Callable[[str], None]:
    return partial(console.print, style="dim", markup=False, highlight=False, soft_wrap=True)


def report(folder: Path, name: str | None, console: Any, wandb_mode: str | None) -> None:
    """Print an ablation's table and statements, and write its report."""
    evidence = importlib.import_module("reports.load").load(folder, name)
    tables = importlib.import_module("reports.tables")
    console.print(tables.terminal_table(evidence, narrow=console.width < 100))
    console.print()
    for statement in importlib.import_module("reports.headline").headline(evidence):
        console.print(f"- {statement.text}", markup=False, highlight=False)
    paths = importlib.import_module("reports.build").write(evidence)
    console.print(f"report: {paths.html}", soft_wrap=True, highlight=False)

    from harness.trackers import publish_report

    trackers = evidence.header["spec"].get("trackers", ())
    say = partial(console.print, markup=False, highlight=False)
    publish_report(folder, evidence.name, list(paths), trackers, wandb_mode, say)
