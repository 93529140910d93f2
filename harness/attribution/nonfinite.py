"""What follows a value that is not finite: nothing in silence, and whatever is done is recorded.

    error          stops; says where, and which of the others may help
    retry-float32  fits the stage again in float32, where it was in something smaller
    more-damping   raises the ridge or the damping tenfold or more, where an inverse is the matter
    mask           leaves out the rows that are to blame, in every stage

Decisions lie beside the factors, so that an interrupted fit goes on with them, and factors that
needed one are not taken for sound by someone who did not allow it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.attribution.fit_spec import OnNonfinite

DECISIONS = "decisions.json"
RIDGES = (1e-4, 1e-2, 1.0)  # shares of the mean eigenvalue, beyond the ladder's own millionth
STRONGEST = 1e6  # times the damping asked for; what needs more has nothing to invert
ADVICE = {
    "mask": 'on_nonfinite = "mask" leaves the row out',
    "retry-float32": 'on_nonfinite = "retry-float32" fits the stage again in float32',
    "more-damping": 'on_nonfinite = "more-damping" raises it',
}


class UnsoundError(SpecError, FloatingPointError):
    """A stage of a fit has met what is not finite, or cannot be inverted."""

    def __init__(self, message: str, stage: str, name: str = "", helps: str = "mask") -> None:
        """Say where; `name` is the matrix, `helps` the choice worth a try, if any."""
        super().__init__(message)
        self.stage, self.name, self.helps = stage, name, helps


NAMED = 5  # rows that a sentence names


@dataclass
class Decisions:
    """What was decided so far in one fit."""

    masked: list[list[Any]] = field(default_factory=list)
    """[domain, row] of each row left out."""
    float32: list[str] = field(default_factory=list)
    """Stages fitted again in float32."""
    ridges: dict[str, float] = field(default_factory=dict)
    """Matrix -> share of its mean eigenvalue that was added to its diagonal."""
    damping: float = 1.0
    """Factor on the damping asked for."""
    log: list[dict[str, str]] = field(default_factory=list)
    """What was done, where, and why."""

    @classmethod
    def read(cls, folder: Path) -> Decisions:
        """Return those of a fit; none where it has needed none."""
        return cls(**(read_json(folder / DECISIONS) or {}))

    def effects(self) -> dict[str, Any] | None:
        """Return what was done, without why; None where nothing was."""
        if not self.log:
            return None
        found = {name: value for name, value in asdict(self).items() if name != "log"}
        return {**found, "masked": sorted(self.masked), "float32": sorted(self.float32)}

    def save(self, folder: Path, action: str, error: UnsoundError, what: str) -> None:
        """Write one more."""
        self.log.append(
            {"action": action, "stage": error.stage, "what": what, "because": str(error)}
        )
        write_json(folder / DECISIONS, asdict(self))

    def refuse_unless_allowed(self, folder: Path, on_nonfinite: OnNonfinite) -> None:
        """Raise SpecError where something was done that is not allowed now."""
        for entry in self.log:
            if entry["action"] != on_nonfinite:
                done = f"{entry['action']} at stage {entry['stage']} ({entry['what']})"
                choice = f'set factors.on_nonfinite = "{entry["action"]}"'
                fix = f"{choice}, or delete the folder and fit again"
                raise SpecError(f"{folder}: its factors needed {done}; {fix}")


def decide(
    decisions: Decisions,
    error: UnsoundError,
    choice: OnNonfinite,
    folder: Path,
    is_small: bool,
    blamed: Callable[[], list[tuple[str, int]]],
) -> str:
    """Record what to do about an error and return it in words; raise it again if nothing may be.

    `is_small` tells whether the stage is in less than float32; `blamed` finds the (domain, row)
    pairs that are to blame, at the price of a pass.
    """
    if choice == "error":
        advice = f"; {ADVICE[error.helps]}" if error.helps else ""
        raise UnsoundError(f"{error}{advice}", error.stage) from error
    if choice == "mask":
        what = _mask(decisions, blamed())
    elif choice == "retry-float32":
        what = _retry(decisions, error.stage) if is_small else ""
    else:
        what = _damp(decisions, error)
    if not what:
        why = {
            "mask": "no row of its own is to blame",
            "retry-float32": "it is in float32 already",
            "more-damping": "damping cannot mend it",
        }[choice]
        raise UnsoundError(f"{error}; on_nonfinite = {choice!r}: {why}", error.stage) from error
    decisions.save(folder, choice, error, what)
    return f"{choice}: {what}, because {error}"


def _mask(decisions: Decisions, rows: list[tuple[str, int]]) -> str:
    new = [list(row) for row in rows if list(row) not in decisions.masked]
    decisions.masked += new
    told = ", ".join(f"row {row} of {domain!r}" for domain, row in new[:NAMED])
    more = f" and {len(new) - NAMED} more rows" if len(new) > NAMED else ""
    return f"left out {told}{more}" if new else ""


def _retry(decisions: Decisions, stage: str) -> str:
    decisions.float32.append(stage)
    return f"stage {stage} again in float32"


def _damp(decisions: Decisions, error: UnsoundError) -> str:
    if error.stage == "eigendecomposition":
        tried = decisions.ridges.get(error.name, 0.0)
        share = next((ridge for ridge in RIDGES if ridge > tried), None)
        if share is None:
            return ""
        decisions.ridges[error.name] = share
        return f"a ridge of {share:g} of the mean eigenvalue on {error.name}"
    if error.stage == "inverse" and decisions.damping < STRONGEST:
        decisions.damping *= 10
        return f"damping times {decisions.damping:g}"
    return ""
