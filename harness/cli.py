"""The command line: parse, call, print; no logic.

Methods and reports are resolved by name at this edge, so that nothing else in harness/ knows
them. torch stays out until a run needs it.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import sys
from typing import Any

from rich.console import Console

from harness import attribution_forms, study_forms
from harness.arguments import check_command, parse
from harness.commands.running import check_jobs, report, run, stopped, work
from harness.deferred import deferred
from harness.errors import SpecError
from harness.forms import (
    COMMANDS,
    HELP,
    OVERRIDING,
    Compare,
    Completion,
    Doctor,
    Export,
    Init,
    Methods,
    Plan,
    Report,
    Show,
    one_of,
    subcommand,
)
from harness.ranks.launch import is_follower, is_launched
from harness.run_forms import Run
from harness.study_forms import StudyTrial

GROUPS = {**study_forms.GROUPS, **attribution_forms.GROUPS}
NOT_OUR_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv`; return 0, 1 where a run failed, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)  # a log has room
    try:
        return _obey(arguments, console)
    except SpecError as error:
        print(f"steelyard: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return stopped(console)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has read enough
        return 0
    except OSError as error:
        if error.errno not in NOT_OUR_FAULT:
            raise
        print(f"steelyard: {error}; the same command goes on from here", file=sys.stderr)
        return 1


def _obey(arguments: list[str], console: Console) -> int:
    if arguments == ["--version"]:
        print(f"steelyard {importlib.metadata.version('steelyard')}")
        return 0
    if is_launched():
        return _of_a_group(arguments, console)
    return _of_one(arguments, console)


def _of_a_group(arguments: list[str], console: Console) -> int:
    """Lead the ranks that torchrun has started, or follow them."""
    from harness.rank_grid import follow, leading

    if is_follower():
        return follow()
    with leading():
        if arguments[:1] not in (["run"], ["work"]):
            raise SpecError("torchrun starts `steelyard run` alone; give this command without it")
        return _of_one(arguments, console)


def _of_one(arguments: list[str], console: Console) -> int:
    check_command(arguments, [*COMMANDS, *GROUPS])
    if arguments[0].startswith("-"):
        parse(overview(), arguments, prog="steelyard", description=HELP)
    if arguments[0] in GROUPS:
        return _of_group(arguments[0], arguments[1:], console)
    form, rest = COMMANDS[arguments[0]], arguments[1:]
    prog = f"steelyard {arguments[0]}"
    if form not in OVERRIDING:
        return _carry_out(parse(form, rest, prog=prog), console)
    command, overrides = _with_overrides(form, rest, prog)
    if isinstance(command, Plan):
        return _plan(command, overrides, console)
    carry_out = run if isinstance(command, Run) else work
    words = ["steelyard", *arguments]
    return carry_out(command, overrides, words, console, find_method)


def _of_group(group: str, arguments: list[str], console: Console) -> int:
    """Carry out `steelyard GROUP COMMAND ...`: commands that tune, and those that attribute."""
    summary, commands = GROUPS[group]
    check_command(arguments, list(commands), group)
    prog = f"steelyard {group}"
    if arguments[0].startswith("-"):
        parse(one_of(commands), arguments, prog=prog, description=summary)
    form, rest = commands[arguments[0]], arguments[1:]
    prog, ours = f"{prog} {arguments[0]}", []
    if group in attribution_forms.GROUPS:
        command, overrides = _with_overrides(form, rest, prog)
        attribution = importlib.import_module("harness.attribution.commands")
        prog = f"{prog} {command.spec}"
        return int(attribution.carry_out(command, overrides, prog, console))
    if form is StudyTrial:  # its settings are options too
        ours = [a for a in rest if a.startswith("--settings.")]
    command = parse(form, [a for a in rest if a not in ours], prog=prog)
    tuning = importlib.import_module("sweeps.commands")
    words = ["steelyard", group, *arguments]
    return int(tuning.carry_out(command, ours, words, console, find_method))


def _with_overrides(form: type, arguments: list[str], prog: str) -> tuple[Any, list[str]]:
    """Return the command and what is left for the spec; help lists the options of both."""
    asks = [a for a in arguments if a in ("-h", "--help")]
    if asks and any(a.endswith(".toml") for a in arguments):
        try:
            parse(form, asks, prog=prog)
        except SystemExit:
            print("\nKeys of the spec, with the values that it gives them:\n")
    else:
        asks, arguments = [], arguments
    ours = [a for a in arguments if a not in asks]
    command, overrides = parse(form, ours, prog=prog, return_unknown_args=True)
    return command, overrides + asks


def _carry_out(command: Any, console: Console) -> int:
    if isinstance(command, Init):
        from harness.commands.init import write_spec

        asked = (command.out, command.name, command.target, command.force)
        for line in write_spec(command.paths, *asked):
            print(line)
        return 0
    if isinstance(command, Doctor):
        from harness.commands.doctor import examine

        return examine(command.out, console)
    if isinstance(command, Completion):
        from harness.commands.completion import script

        print(script(overview(), command.shell))
        return 0
    if isinstance(command, Methods):
        return _methods(command, console)
    if isinstance(command, Compare):
        return _compare(command, console)
    if not command.folder.is_dir():
        raise SpecError(f"{command.folder}: no such folder; give the --out of a run")
    if isinstance(command, Export):
        return _export(command)
    if isinstance(command, Show):
        from harness.show import show

        show(command.folder, console, command.leases)
        return 0
    if command.watch:
        return _watch(command, console)
    report(command.folder, command.name, console, command.wandb_mode)
    return 0


def _compare(command: Compare, console: Console) -> int:
    compare = importlib.import_module("reports.compare")
    sides = [compare.side(given, command.out) for given in (command.a, command.b)]
    table = importlib.import_module("reports.compare_table")
    console.print(table.table(compare.compare(*sides)))
    return 0


def _watch(command: Report, console: Console) -> int:
    if not command.every > 0:
        raise SpecError(f"--every: must be above 0 seconds, got {command.every}")
    watch = importlib.import_module("reports.watch").watch
    for line in watch(command.folder, command.name, command.every):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    report(command.folder, command.name, console, command.wandb_mode)
    return 0


def _methods(command: Methods, console: Console) -> int:
    from harness.commands.methods import describe_method, list_methods

    if command.name is None:
        list_methods(registered(), console)
        return 0
    try:
        describe_method(command.name, find_method(command.name), console)
    except ValueError as error:
        raise SpecError(str(error)) from None
    return 0


def _export(command: Export) -> int:
    from harness.commands.export import mixture
    from harness.commands.fragments import render

    asked = mixture(command.folder, command.arm, command.name, command.seed, command.what)
    text = render(asked, command.format)
    if command.to is None:
        print(text, end="")
    else:
        try:
            command.to.write_text(text)
        except OSError as error:
            raise SpecError(f"{command.to}: cannot be written: {error.strerror}") from None
        print(f"wrote {command.to}")
    return 0


def _plan(command: Plan, overrides: list[str], console: Console) -> int:
    from harness.commands.plan import forecast
    from harness.commands.plan_table import print_plan
    from harness.specfile import load_ablation

    check_jobs(command.jobs)
    ablation = load_ablation(command.spec, overrides, find_method)
    plan = forecast(ablation, command.out, command.jobs, command.measure)
    power = importlib.import_module("reports.power")
    print_plan(plan, power.prospects(ablation, command.out), console)
    return 0


def registered() -> dict[str, type]:
    """Return the registered methods by name, without importing torch."""
    with deferred("torch"):
        methods: dict[str, type] = importlib.import_module("baselines").METHODS
    return methods


def overview() -> Any:
    """Return all commands as one form; those of a group one level down."""
    form = one_of(COMMANDS)
    for name, (summary, commands) in GROUPS.items():
        form |= subcommand(name, one_of(commands), summary)
    return form


def find_method(name: str) -> type:
    """Return the class of a method: a registered name, or `module:Class` from anywhere."""
    methods = registered()
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
