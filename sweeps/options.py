"""Settings of one trial as a command line gives them: `--settings.every=20`, or one JSON object.

They are read by the search space, since both W&B and Optuna's command line hand over text: `20.0`
is the whole number 20, `True` and `true` are a switch. What the space has no place for is refused,
because a trial outside of it would be no trial of this study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import SpecError
from sweeps.space import Choice, IntRange, Parameter, Value


def read_settings(
    parameters: Mapping[str, Parameter], params: str | None, options: Sequence[str]
) -> dict[str, Value]:
    """Return a value for every parameter; SpecError, in one line, for anything else.

    `params` is a JSON object, `options` are texts of the form `--settings.a.b=value`.
    """
    if params is not None and options:
        raise SpecError("--params: settings are given as options too; give them once")
    given = _from_options(options) if params is None else _from_json(params)
    where, mark, sign = ("", "--", "=") if params is None else ("--params: ", "", ": ")
    for name in given:
        if name not in parameters:
            known = ", ".join(mark + one for one in parameters)
            raise SpecError(f"{where}{mark}{name} is not in the search space; choose from {known}")
    missing = [name for name in parameters if name not in given]
    if missing:
        name = missing[0]
        fix = f"add {mark}{name}{sign}{_example(parameters[name])}, or another"
        raise SpecError(f"{where}{mark}{name} is missing; {fix}")
    return {name: _read(where + mark + name, p, given[name]) for name, p in parameters.items()}


def _from_options(options: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        if not equals:
            raise SpecError(f"--{name}: has no value; write --{name}=VALUE")
        if name in given:
            raise SpecError(f"--{name}: is given twice; give it once")
        given[name] = value
    return given


def _from_json(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise SpecError(f"--params: is no JSON ({error}), got {text!r:.60}") from None
    if not isinstance(given, dict):
        raise SpecError(f"--params: must be one JSON object, got {text!r:.60}")
    return given


def _read(where: str, parameter: Parameter, given: Any) -> Value:
    found: Value | None
    if isinstance(parameter, Choice):
        found = _chosen(parameter, given)
    else:
        found = _in_range(parameter, given)
    if found is None or found not in parameter:
        raise SpecError(f"{where}: must be {_described(parameter)}, got {given!r:.60}")
    return found


def _number(given: Any) -> float | None:
    if isinstance(given, bool):
        return None
    try:
        return float(given)
    except (TypeError, ValueError):
        return None


def _in_range(parameter: Parameter, given: Any) -> int | float | None:
    number = _number(given)
    if number is None or not isinstance(parameter, IntRange):
        return number
    return int(number) if number.is_integer() else None


def _chosen(parameter: Choice, given: Any) -> Value | None:
    """Return the value that is meant by itself, by its text, or as the number that it is."""
    for value in parameter.values:
        if value == given and type(value) is type(given):
            return value
        if isinstance(value, bool):
            is_meant = str(value).lower() == str(given).lower()
        elif isinstance(value, int | float):
            is_meant = value == _number(given)
        else:
            is_meant = value == given
        if is_meant:
            return value
    return None


def _described(parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        return f"one of {', '.join(str(value) for value in parameter.values)}"
    kind = "a whole number" if isinstance(parameter, IntRange) else "a number"
    return f"{kind} from {parameter.low:g} to {parameter.high:g}"


def _example(parameter: Parameter) -> str:
    return str(parameter.values[0] if isinstance(parameter, Choice) else parameter.low)
