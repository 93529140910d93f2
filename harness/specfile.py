"""From a TOML file and overrides to a validated Ablation, or one clear line per mistake.

The order is: defaults, then the file, then `--a.b=v`. Methods are given by the caller, as a
function from a name to a class, because the harness knows none.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from harness.api import Mixer
from harness.arguments import parse
from harness.binding import bound
from harness.errors import SpecError
from harness.identity import describe
from harness.spec import Ablation

FindMethod = Callable[[str], type[Mixer]]

_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")  # pydantic's names


def load_ablation(path: Path, overrides: Sequence[str], find_method: FindMethod) -> Ablation:
    """Return the ablation in `path` with `--a.b=v` overrides; SpecError says what is wrong."""
    return build_ablation(read_spec(path), path, overrides, find_method)


def build_ablation(
    raw: Mapping[str, Any],
    path: Path,
    overrides: Sequence[str],
    find_method: FindMethod,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Ablation:
    """Return the ablation that the text of `path`, already read, says; it is left as it is.

    `changes` are tables laid over the file's own tables of arms, by label.
    """
    arms = dict(raw.get("arms") or {}) if changes else {}
    for label, change in (changes or {}).items():
        arms[label] = _laid_over(arms[label], change, f"{path}: arms.{label}")
    ablation = _validate({**raw, "arms": arms} if changes else dict(raw), str(path), find_method)
    if overrides:
        written = ablation
        ablation = override(ablation, overrides, f"steelyard run {path}")
        for label, arm in ablation.arms.items():
            if arm.method != written.arms[label].method:
                fix = f"give the spec an arm of its own for {arm.method!r}"
                raise SpecError(f"--arms.{label}.method: a method cannot be overridden; {fix}")
    domains = tuple(sorted(name for name, domain in ablation.domains.items() if domain.train))
    for label, arm in ablation.arms.items():
        try:
            arm.settings.check(domains, ablation.targets)
            arm.settings.check_length(ablation.num_steps, domains)
        except Exception as error:  # whatever a user's own check does
            raise SpecError(f"{path}: arms.{label}.settings.{error}") from None
    try:
        _check_controls(ablation)
    except ValueError as error:
        raise SpecError(f"{path}: arms.{error}") from None
    return ablation


def _check_controls(ablation: Ablation) -> None:
    """Refuse a method that looks at runs which no arm pays for, and a control that is tested."""
    mixers = bound({label: arm.settings for label, arm in ablation.arms.items()})
    known = {label: describe(mixer) for label, mixer in mixers.items()}
    for label, mixer in mixers.items():
        arm = ablation.arms[label]
        for other in mixer.others():
            named = [name for name in known if name != label and known[name] == describe(other)]
            if not named:
                what = type(other).__name__
                raise ValueError(f"{label}: looks at runs of {what}, which is no arm of this spec")
            seeds = [ablation.arms[name].data_seed for name in named]
            if arm.data_seed not in seeds:
                fix = f"set it as in arms.{named[0]}"
                raise ValueError(f"{label}.data_seed: {arm.data_seed}, of runs that differ; {fix}")
            if not arm.is_control:
                why = "what it looks at is billed to another arm"
                raise ValueError(f"{label}.control: must be true, since {why}; remove the key")


def read_spec(path: Path) -> dict[str, Any]:
    """Return the tables of a spec's file; SpecError where it is no TOML."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a spec (TOML)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        hint = (
            "; two arms or domains may share a name"
            if "twice" in str(error) or "overwrite" in str(error)
            else ""
        )
        raise SpecError(f"{path}: not valid TOML: {error}{hint}") from None


def _laid_over(table: Any, change: Any, where: str) -> Any:
    """Return a table with another one's keys set in it, tables inside of it key by key."""
    if not isinstance(change, Mapping):
        return change
    if not isinstance(table, Mapping):
        fix = f"write it as a table in the spec, of which {next(iter(change))!r} is a key"
        raise SpecError(f"{where}: is {_short(table)}, and a key inside of it is to be set; {fix}")
    changed = {key: _laid_over(table.get(key, {}), change[key], f"{where}.{key}") for key in change}
    return {**table, **changed}


def _validate(raw: dict[str, Any], where: str, find_method: FindMethod) -> Ablation:
    raw = dict(raw)
    arms = raw.get("arms")
    if isinstance(arms, Mapping):
        raw["arms"] = {
            label: _with_settings(arm, f"{where}: arms.{label}", find_method)
            for label, arm in arms.items()
        }
    ablation: Ablation = build(Ablation, raw, where)
    return ablation


def _with_settings(arm: Any, where: str, find_method: FindMethod) -> Any:
    """Return the arm with its settings as an instance of its method's class."""
    if not isinstance(arm, Mapping) or not isinstance(arm.get("method"), str):
        return arm  # reported with the rest of the spec
    try:
        method = find_method(arm["method"])
    except ValueError as error:
        raise SpecError(f"{where}.method: {error}") from None
    if not (isinstance(method, type) and issubclass(method, Mixer)):
        fix = "give module:Class of a subclass of harness.api.Mixer"
        raise SpecError(f"{where}.method: {arm['method']!r} is no mixing method; {fix}")
    given = arm.get("settings", {})
    if not isinstance(given, Mapping):
        raise SpecError(f"{where}.settings: must be a table of settings, got {_short(given)}")
    known = [f.name for f in fields(method) if f.init]
    for key in given:  # a plain dataclass, which a user may write, would ignore it
        if key not in known:
            raise SpecError(f"{where}.settings.{key}: unknown key; {_fix(key, known)}")
    settings = build(method, dict(given), f"{where}.settings")
    return {**arm, "settings": settings}


def build(cls: type[Any], raw: dict[str, Any], where: str) -> Any:
    """Return an instance of a spec's class; SpecError with a line for each mistake."""
    try:
        return TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        raise SpecError("\n".join(_lines(error, cls, raw, where))) from None


def _lines(error: ValidationError, cls: type[Any], raw: Any, where: str) -> list[str]:
    """Return one line per mistake, although pydantic reports one for each branch of a union."""
    problems: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors():
        problems.setdefault(_place(problem, raw), []).append(problem)
    return [
        _explain(found, place, cls, where)
        for place, found in problems.items()
        # what is wrong inside of a value makes the whole value wrong in another branch
        if not any(other[: len(place)] == place and other != place for other in problems)
    ]


def _place(problem: Any, raw: Any) -> tuple[str, ...]:
    """Return where a problem is as the user wrote it: without the names of a union's branches."""
    here, place = raw, []
    for part in problem["loc"]:
        in_table = isinstance(here, Mapping) and part in here
        if in_table or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
            here = here[part]
            place.append(str(part))
    if problem["type"] in _MISSING:
        place.append(str(problem["loc"][-1]))
    return tuple(place)


def _explain(problems: list[Any], place: tuple[str, ...], cls: type[Any], where: str) -> str:
    """Return one line: where, what, the value, and the fix."""
    problem, kind = problems[0], problems[0]["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(cls, [str(part) for part in problem["loc"][:-1]])
        return _at(where, place, f"unknown key; {_fix(place[-1], known)}")
    if kind in _MISSING:
        return _at(where, place, "is missing; add it")
    if kind == "value_error":
        return _at(where, place, str(problem["msg"]).removeprefix("Value error, "))
    messages = dict.fromkeys(f"{p['msg'][0].lower()}{p['msg'][1:]}" for p in problems)
    return _at(where, place, f"{', or '.join(messages)}, got {_short(problem['input'])}")


def _fix(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"


def _at(where: str, place: tuple[str, ...], text: str) -> str:
    """Join a place and a text: `file: a.b: text`, or `file: arms.x.settings.a: text`."""
    path = ".".join(place)
    glue = "." if ": " in where else ": "
    return f"{where}{glue}{path}: {text}" if path else f"{where}: {text}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(cls: Any, location: list[str]) -> list[str]:
    """Return the keys allowed at a location inside dataclass `cls`, by its annotations."""
    for part in location:
        if is_dataclass(cls):
            cls = get_type_hints(cls)[part]
        elif get_origin(cls) is dict:
            cls = get_args(cls)[1]
        else:  # a union of dataclasses, told apart by the default of `kind`
            cls = next(c for c in get_args(cls) if getattr(c, "kind", None) == part)
    return [f.name for f in fields(cls)] if is_dataclass(cls) else []


def override(spec: Any, overrides: Sequence[str], prog: str) -> Any:
    """Apply `--a.b=v` to a spec; the help that may be asked for lists every key with its value."""
    return parse(type(spec), overrides, has_flags=False, default=spec, prog=prog)
