"""The command line: parse, call, print; no logic.

Methods and reports are resolved by name at this edge, so that nothing else in harness/ knows
them. torch stays out until a run needs it.
"""

from __future__ import annotations

import errno
import importlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from harness.deferred import deferred
from harness.errors import SpecError

HELP = """Referee of language-model data mixing: which mixture wins on your data, at your budget,
and what it cost.

Example: steelyard run sweeps/demo.toml --out runs/demo"""


WandbMode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class Run:
    """Run an ablation: every arm at every seed, then a table and a report.

    Finished runs are found by their content, interrupted ones resume. Any key of the spec can be
    overridden: `steelyard run SPEC --budget.steps=50 --arms.influence.settings.every=20`;
    `steelyard run SPEC --help` lists them all.
    """

    spec: tyro.conf.Positional[Path]
    """The ablation, a TOML file."""
    out: Path = Path("runs")
    """Folder of runs, corpora and reports; it can be shared by many ablations."""
    jobs: int | None = None
    """Runs that train at the same time; by default what the cores allow. Changes no number."""
    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker; by default WANDB_MODE, else online if logged in, else offline."""


@dataclass(frozen=True)
class Show:
    """List the ablations and runs in a folder, and their state.

    Example: steelyard show runs/demo
    """

    folder: tyro.conf.Positional[Path] = Path("runs")


@dataclass(frozen=True)
class Report:
    """Write report.html, report.md and results.csv.

    Example: steelyard report runs/demo
    """

    folder: tyro.conf.Positional[Path] = Path("runs")
    name: str | None = None
    """Which ablation, where the folder holds several; by default the latest."""
    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker of the ablation and does not have this report yet; as for run."""


NOT_OUR_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}

Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv`; return 0, 1 where a run failed, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)  # a log has room
    asks_for_keys = arguments[:1] == ["run"] and any(a.endswith(".toml") for a in arguments)
    ours = [a for a in arguments if not (asks_for_keys and a in ("-h", "--help"))]
    command, overrides = tyro.cli(
        Command,
        prog="steelyard",
        description=HELP,
        args=ours,
        return_unknown_args=True,
        config=(tyro.conf.FlagConversionOff,),
    )
    overrides += [a for a in arguments if a not in ours]
    try:
        return _carry_out(command, overrides, arguments, console)
    except SpecError as error:
        print(f"steelyard: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _stopped(console)
    except OSError as error:
        if error.errno not in NOT_OUR_FAULT:
            raise
        print(f"steelyard: {error}; the same command goes on from here", file=sys.stderr)
        return 1


def _carry_out(command: Any, overrides: list[str], arguments: list[str], console: Console) -> int:
    if isinstance(command, Run):
        return _run(command, overrides, ["steelyard", *arguments], console)
    if overrides:
        raise SpecError(f"unknown argument {overrides[0]!r}; see steelyard --help")
    if not command.folder.is_dir():
        raise SpecError(f"{command.folder}: no such folder; give the --out of a run")
    if isinstance(command, Show):
        from harness.show import show

        show(command.folder, console)
        return 0
    _report(command.folder, command.name, console, command.wandb_mode)
    return 0


def _run(command: Run, overrides: list[str], arguments: list[str], console: Console) -> int:
    from harness.specfile import load_ablation

    if command.jobs is not None and command.jobs < 1:
        raise SpecError(f"--jobs: must be at least 1, got {command.jobs}")
    ablation = load_ablation(command.spec, overrides, find_method)
    if "heldout" not in ablation.evaluation.splits:
        raise SpecError("evaluation.splits: a comparison is read off the held-out set; add it")

    # numpy and the corpus code take longer to import than it takes to find a mistake in a spec
    from harness.ablate import run_ablation
    from harness.display import TerminalDisplay

    display = TerminalDisplay(console)
    mode = command.wandb_mode
    summary = run_ablation(ablation, command.out, command.jobs, display, arguments, mode)
    if summary.interrupted:
        return _stopped(console)
    if summary.finished:
        _report(command.out, ablation.name, console, summary.wandb_mode)
    return 1 if summary.num_failed else 0


def _stopped(console: Console) -> int:
    console.print("stopped; the same command goes on from what is saved")
    return 130


def _report(folder: Path, name: str | None, console: Console, wandb_mode: str | None) -> None:
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


def find_method(name: str) -> type:
    """Return the class of a method: a registered name, or `module:Class` from anywhere."""
    with deferred("torch"):
        methods: dict[str, type] = importlib.import_module("baselines").METHODS
    if name in methods:
        return methods[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(methods)
        raise ValueError(f"unknown method {name!r}; choose from {known}, or give module:Class")
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except Exception as error:  # whatever the user's module does when it is imported
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name!r} cannot be imported: {what}") from None


if __name__ == "__main__":
    sys.exit(main())
