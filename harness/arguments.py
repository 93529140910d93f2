"""Command-line arguments through tyro, and its boxed complaints as one line each.

tyro explains a mistake in a framed box of a dozen lines. A line is what a person reads, what a log
keeps and what a script can match, so the box is caught and taken apart; the price is that its
wording has to be known here.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Sequence
from typing import Any

from harness.errors import SpecError

_NOISE = (
    r"For full helptext.*",
    r"For further information visit \S+",
    r"\d+ validation errors? for \S+ ",
    r"Argument helptext:.*",
)


def parse(form: Any, arguments: Sequence[str], *, has_flags: bool = True, **options: Any) -> Any:
    """Return what tyro makes of `arguments`; SpecError, in one line, where it refuses them.

    With flags, `--force` alone is true; without, truth has a value: `--x=True`, as sweeps give it,
    or `--x=true`, as TOML writes it.
    A request for help is printed, and ends in tyro's own SystemExit(0).
    """
    import tyro  # a third of a second, and most specs are run as they are

    conf = tyro.conf
    flags = conf.FlagCreatePairsOff if has_flags else conf.FlagConversionOff
    settings = (flags, conf.AvoidSubcommands)
    if any(argument in ("-h", "--help") for argument in arguments):
        return tyro.cli(form, args=list(arguments), config=settings, **options)
    complaint = io.StringIO()
    try:
        with _truth(), _endless_lines(), contextlib.redirect_stderr(complaint):
            return tyro.cli(form, args=list(arguments), config=settings, **options)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise SpecError(one_line(complaint.getvalue())) from None


def _truth() -> contextlib.AbstractContextManager[object]:
    """Let tyro read true and false in TOML's spelling beside Python's."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def boolean(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{True,False}",
            instance_from_str=lambda words: words[0].lower() == "true",
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
            choices=("True", "False", "true", "false"),
        )

    return registry


@contextlib.contextmanager
def _endless_lines() -> Any:
    """Let tyro draw a box that wraps no line, so that it can be read back."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def one_line(box: str) -> str:
    """Return the complaint in one of tyro's boxes as a line: where, what, the value."""
    # drawn with lines where standard output can show them, else with | and -
    lines = [re.sub(r"[\u2500-\u257f]|^\||\|$", "", s).strip() for s in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line.strip("+-"))
    text = re.sub(r" ?\[type=[^,\]]*, input_value=(.*?), input_type=\w+\]", r", got \1", text)
    text = re.sub(r", got ArgsKwargs\(.*", "", text)  # the whole spec, of which one thing is wrong
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    text = " ".join(text.split()).replace("Error parsing ", "")
    text = re.sub(r"^Ablation: Value error, |(?<=: )Value error, ", "", text)
    text = re.sub(r"^([a-z_.]+): (\w+) (?=Input should)", r"--\1.\2: ", text)
    text = re.sub(r"^Unrecognized options: ", "unknown option ", text)
    text = re.sub(r" Available subcommands: .*", "; see steelyard --help", text)
    text = re.sub(r" (?=did you mean|Perhaps you meant)", "; ", text)
    text = re.sub(
        r"no type matching (.+?) could be instantiated from \[(.*?)\]\. Got errors:.*",
        lambda found: f"must be {_kind(found[1])}, got {found[2]}",
        text,
    )
    text = re.sub(r"^Missing from steelyard ([\w ]+): (\S+) (.*?)\.? \(required\)",
                  r"\1: \2 is missing (\3); see steelyard \1 --help", text)  # fmt: skip
    # one suggestion is a fix, three are a list to read
    return re.sub(r"Perhaps you meant: (--\S+).*", r"did you mean \1?", text).strip()


def _kind(metavar: str) -> str:
    """Return what tyro calls a type, in words where it is a plain one."""
    plain = metavar.removeprefix("{None}|")
    return {"INT": "a whole number", "FLOAT": "a number"}.get(plain, plain)


def check_command(given: Sequence[str], known: Sequence[str], group: str = "") -> None:
    """Refuse a first argument that is no command, by name; `group` is the word before it."""
    prog = f"steelyard {group}".rstrip()
    if not given:
        after = f" after {group}" if group else ""
        what = f"a command is missing{after}"
        raise SpecError(f"{what}; choose one of {', '.join(known)}, or see {prog} --help")
    if given[0].startswith("-") and given[0] not in ("-h", "--help"):
        raise SpecError(f"unknown option {given[0]} before a command; see {prog} --help")
    if not given[0].startswith("-") and given[0] not in known:
        close = difflib.get_close_matches(given[0], known, 1)
        fix = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
        raise SpecError(f"unknown command {given[0]!r}; {fix}")
