"""The part of a W&B sweep file that runs without a server, and what is refused of the rest.

    name, description, project, entity, program, run_cap
    command           a list; ${env} ${interpreter} ${program} ${args} ${args_no_hyphens}
                      ${args_no_boolean_flags} ${args_json}
    method            grid, random or bayes
    metric            name, and goal: minimize or maximize
    parameters        value; values; min and max with distribution int_uniform, uniform, q_uniform,
                      log_uniform_values or q_log_uniform_values; q
    early_terminate   type: hyperband, with min_iter, or max_iter and s; eta

A key that is not in this list changes what W&B would do, so it is an error and not ignored. Models
of our own, because W&B's engine is a package called `sweeps`, as this folder is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.errors import SpecError
from sweeps.space import validated

MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_json",
)
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Scalar = bool | int | float | str | None
Count = Annotated[int, Field(strict=True, gt=0)]
Distribution = Literal[
    "int_uniform", "uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values",
    "categorical", "constant",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Metric:
    """What is optimized."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Hyperband:
    """When a run is ended early."""

    type: Literal["hyperband"]
    min_iter: Count | None = None
    max_iter: Count | None = None
    s: Count | None = None
    eta: Annotated[int, Field(gt=1)] = 3

    @model_validator(mode="after")
    def _has_a_scale(self) -> Self:
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError("min_iter is missing; give it, or max_iter and s")
        return self

    @property
    def first(self) -> int:
        """Return the number of the first value at which a run may end; the first of all is 0."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None
        assert self.s is not None
        return max(1, int(self.max_iter / self.eta**self.s))


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class SweptParameter:
    """A constant, some values, or a range."""

    value: Any = None
    values: Annotated[list[Any], Field(min_length=1)] | None = None
    min: Any = None
    max: Any = None
    q: Any = None
    distribution: Distribution | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        for value in self.values or [self.value]:
            if not isinstance(value, Scalar):
                raise ValueError(f"a value must be one number, text or truth, got {value!r:.60}")
        given = [n for n in ("min", "max", "q") if getattr(self, n) is not None]
        for name in given:
            bound = getattr(self, name)
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                fix = "; YAML wants a point in it: 1.0e-4" if "e" in str(bound) else ""
                raise ValueError(f"{name} must be a number, got {bound!r:.60}{fix}")
        if self.is_range and {"min", "max"} - {*given}:
            raise ValueError("min and max belong together; give value, values, or both of them")
        if not self.is_range and given:
            raise ValueError(f"{given[0]} and values exclude each other; keep one")
        if self.is_range:
            self._check_range()
        return self

    def _check_range(self) -> None:
        if self.min >= self.max:
            raise ValueError(f"min must be below max, got {self.min} and {self.max}")
        if self.kind in ("log_uniform_values", "q_log_uniform_values") and self.min <= 0:
            raise ValueError(f"a log scale needs min above 0, got {self.min}")
        if self.kind == "int_uniform" and not self.is_whole:
            raise ValueError(f"int_uniform needs whole min and max, got {self.min} and {self.max}")
        if self.kind in ("categorical", "constant"):
            raise ValueError(f"distribution {self.kind} needs values, not min and max")
        if self.q is not None and self.q <= 0:
            raise ValueError(f"q must be above 0, got {self.q}")

    @property
    def is_range(self) -> bool:
        """Return whether it has bounds."""
        is_constant = self.value is not None or self.distribution == "constant"
        return self.values is None and not is_constant

    @property
    def is_whole(self) -> bool:
        """Return whether its bounds, and its step where it has one, are whole numbers."""
        found = [self.min, self.max, 1 if self.q is None else self.q]
        return all(isinstance(one, int) for one in found)

    @property
    def kind(self) -> Distribution:
        """Return its distribution; as W&B does, whole bounds alone mean whole numbers."""
        if self.distribution is not None:
            return self.distribution
        return "int_uniform" if self.is_whole else "uniform"

    def points(self) -> list[Scalar] | None:
        """Return all its values, for a grid; None where they are endless."""
        if not self.is_range:
            return [self.value] if self.values is None else list(self.values)
        if self.kind == "int_uniform":
            return [*range(self.min, self.max + 1)]
        if self.kind == "q_uniform":
            step = 1 if self.q is None else self.q
            return [
                self.min + k * step
                for k in range(math.floor((self.max - self.min) / step + 1e-9) + 1)
            ]
        return None


Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Sweep:
    """A sweep as its file says it."""

    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: Annotated[dict[Name, SweptParameter], Field(min_length=1)]
    name: Annotated[str, Field(strict=True)]
    program: str | None = None
    command: Annotated[list[str], Field(min_length=1)] | None = None
    run_cap: Count | None = None
    early_terminate: Hyperband | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    @model_validator(mode="after")
    def _can_be_started(self) -> Self:
        if not self.name or any(sign in "/" or sign.isspace() for sign in self.name):
            raise ValueError(f"name: must have neither / nor spaces, got {self.name!r:.60}")
        for word in self.command or []:
            if word.startswith("${") and word.endswith("}") and word[2:-1] not in MACROS:
                known = " ".join(f"${{{name}}}" for name in MACROS)
                raise ValueError(f"command: unknown macro {word}; choose from {known}")
        needs = self.command is None or "${program}" in self.command
        if needs and self.program is None:
            raise ValueError("program: is missing, and the command needs it; add it")
        for name, parameter in self.parameters.items():
            if self.method == "grid" and parameter.points() is None:
                raise ValueError(
                    f"parameters.{name}: a grid over {parameter.kind} has no end; give values"
                )
        return self


def load_sweep(path: Path) -> Sweep:
    """Return the sweep in `path`; SpecError says in one line what is wrong with it."""
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a W&B sweep (YAML)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: must be a table of keys, got {raw!r:.60}")
    return validated(Sweep, {"name": path.stem, **raw}, str(path))
