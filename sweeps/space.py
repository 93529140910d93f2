"""What a sweep may try of one method: a typed search space, read from sweeps/spaces/*.toml.

    method = "influence"

    [parameters]
    "settings.every" = { type = "int", low = 10, high = 100, log = true }
    "settings.temperature" = { type = "float", low = 0.1, high = 10.0, log = true }
    "settings.rule" = { type = "choice", values = ["softmax", "exponentiated"] }
    "settings.weights" = { type = "mixture" }

Keys are dotted keys of an arm, `[arms.LABEL]` of a spec. They are the parameter names in Optuna and
in W&B sweeps, which are both made from this one file, and options of `steelyard study trial`.
`mixture` is one weight for each trained domain, between `low` and 1 on a log scale; the method
scales them to sum 1.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from harness.errors import SpecError

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Value = bool | int | float | str
T = TypeVar("T")
Switch = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class _Range:
    """What both kinds of numbers share: bounds that make sense."""

    low: float
    high: float
    log: Switch = False
    step: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; keep one")
        return self

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-9 * max(1.0, abs(steps))


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class IntRange(_Range):
    """Whole numbers from low to high, both included."""

    low: Whole
    high: Whole
    step: Annotated[int, Field(strict=True, gt=0)] | None = None
    type: Literal["int"] = "int"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and super().__contains__(value)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class FloatRange(_Range):
    """Numbers from low to high, both included."""

    low: Number
    high: Number
    step: Annotated[float, Field(strict=True, gt=0)] | None = None
    type: Literal["float"] = "float"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Choice:
    """One of some values, without order."""

    values: Annotated[tuple[Value, ...], Field(min_length=2)]
    type: Literal["choice"] = "choice"

    def __contains__(self, value: object) -> bool:
        return any(value == known and type(value) is type(known) for known in self.values)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Mixture:
    """A weight for each trained domain, before they are scaled to sum 1."""

    low: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.01
    type: Literal["mixture"] = "mixture"


Parameter = IntRange | FloatRange | Choice
Declared = Annotated[Parameter | Mixture, Field(discriminator="type")]
Key = Annotated[str, Field(pattern=r"^settings(\.[A-Za-z0-9_-]+)+$")]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Space:
    """Every parameter that may change, by dotted key of an arm."""

    method: str
    parameters: Annotated[dict[Key, Declared], Field(min_length=1)]

    def over(self, domains: tuple[str, ...]) -> dict[str, Parameter]:
        """Return the parameters, with each mixture spread over the K trained `domains`."""
        found: dict[str, Parameter] = {}
        for key, parameter in self.parameters.items():
            if isinstance(parameter, Mixture):
                weight = FloatRange(low=parameter.low, high=1.0, log=True)
                found |= {f"{key}.{domain}": weight for domain in domains}
            else:
                found[key] = parameter
        return found


def load_space(path: Path) -> Space:
    """Return the search space in `path`; SpecError says in one line what is wrong with it."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a search space (TOML)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    return validated(Space, raw, str(path))


def validated(cls: type[T], raw: Any, where: str) -> T:
    """Return `raw` as an instance of `cls`; SpecError names place, value and reason."""
    try:
        return TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        raise SpecError("\n".join(_line(problem, where) for problem in error.errors())) from None


def _line(problem: Any, where: str) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("int", "float", "choice"))
    at = f"{where}: {place}" if place else where  # what is said of the whole names its own place
    kind, said = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind in ("missing", "missing_keyword_only_argument"):
        return f"{at}: is missing; add it"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{at}: unknown key; remove it"
    given = "" if kind == "value_error" else f", got {problem['input']!r:.60}"
    return f"{at}: {said[0].lower()}{said[1:]}{given}"


def nested(changes: Mapping[str, Value]) -> dict[str, Any]:
    """Return dotted keys as tables in tables: {"a.b": 1} as {"a": {"b": 1}}."""
    tables: dict[str, Any] = {}
    for key, value in changes.items():
        *path, last = key.split(".")
        here = tables
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return tables
