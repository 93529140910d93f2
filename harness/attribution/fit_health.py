"""The health of factors as it is shown: at the damping that is asked for now.

Damping belongs to scoring and not to the factors, which are found under any of it; what was written
when they were fitted tells of the damping of that day. The spectra are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.attribution.fit_key import ABOUT
from harness.attribution.nonfinite import Decisions
from harness.files import read_json
from harness.influence.factor_files import HEALTH, load_state
from harness.influence.preconditioner import health as spectra

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.api import State
    from harness.attribution.fit_spec import Factors


def damping_of(folder: Path, factors: Factors) -> tuple[float, str]:
    """Return the damping asked for, raised where the fit has raised it, and its unit."""
    return factors.damping * Decisions.read(folder).damping, factors.damping_unit


def health_of(folder: Path, factors: Factors) -> dict[str, Any]:
    """Return what is known of fitted factors; the price of another damping is to read them all."""
    found: dict[str, Any] = read_json(folder / HEALTH)
    damping, unit = damping_of(folder, factors)
    if (found["damping"], found["damping_unit"]) == (damping, unit):
        return found
    about = read_json(folder / ABOUT)
    state = read_files(folder, about["files"])
    table = spectra(state, about["strategy"], damping, factors.damping_unit)
    return {**found, "damping": damping, "damping_unit": unit, "modules": table}


def read_files(folder: Path, names: Iterable[str]) -> State:
    """Return what is in files of fitted factors, mapped into memory."""
    state: State = {}
    for name in names:
        state |= load_state(folder / name)
    return state
