"""Factors of a finished run's curvature, fitted stage by stage: interrupted, it goes on.

    preflight -> covariances -> eigendecomposition -> lambda -> health

The folder is named by what the factors depend on, and each stage's files by what they were made
from, so a fit is found at once when it was done before and repeats no finished part when it was
not. The price is disk: a large model's sums lie there until the fit is complete, then they go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.attribution import fit_stages
from harness.attribution.alone import alone
from harness.attribution.fit_health import read_files
from harness.attribution.fit_key import ABOUT, key, parts, refuse_absent
from harness.attribution.fit_key import estimator as settings_of
from harness.attribution.fit_preflight import PREFLIGHT, preflight
from harness.attribution.fit_work import Work, guarded
from harness.attribution.nonfinite import Decisions, UnsoundError, decide
from harness.attribution.progress import SILENT
from harness.files import read_json, write_json
from harness.influence.along_queries import check_rows
from harness.influence.factor_files import HEALTH
from harness.influence.factor_health import check_inverse
from harness.influence.preconditioner import ROTATED
from harness.influence.preconditioner import health as spectra

if TYPE_CHECKING:
    from harness.api import State
    from harness.attribution.fit_spec import Factors
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool
    from harness.influence.ekfac import Ekfac

__all__ = ["estimator", "fit", "key", "open_factors"]

ROWS = "rows.safetensors"


def fit(
    opened: Opened,
    pool: Pool,
    factors: Factors,
    places: Places,
    progress: Progress = SILENT,
    say: Callable[[str], None] = print,
) -> Path:
    """Return the folder of the factors, complete; found at once when they were fitted before.

    SpecError names module, stage, batch and row of what is not finite, where `on_nonfinite` does
    not say what to do about it or that does not help; and where earlier factors needed a way out
    that is not allowed now.
    """
    folder = places.factors(key(opened, pool, factors))
    if not (folder / ABOUT).exists():
        with alone(folder, "fits into it"):
            if not (folder / ABOUT).exists():  # another process may just have written it
                _fit(Work(opened, pool, factors, folder, progress, _allowed(folder, factors)), say)
                return folder
    _allowed(folder, factors)
    say(f"factors found: {folder}")
    return folder


def _allowed(folder: Path, factors: Factors) -> Decisions:
    """Return what was decided; SpecError where that is not allowed now."""
    decisions = Decisions.read(folder)
    decisions.refuse_unless_allowed(folder, factors.on_nonfinite)
    return decisions


def _fit(work: Work, say: Callable[[str], None]) -> None:
    decisions, choice = work.decisions, work.factors.on_nonfinite
    say(_told(work))
    while True:
        try:
            _stages(work)
        except UnsoundError as error:
            stage: Any = error.stage
            small = work.is_small(stage)
            say(decide(decisions, error, choice, work.folder, small, work.blamed))
        else:
            return


def open_factors(opened: Opened, pool: Pool, factors: Factors, places: Places) -> State:
    """Return fitted factors, mapped into memory; SpecError says what changed where there are none.

    SpecError, too, where they needed a way out that `on_nonfinite` does not allow now, as in `fit`.

    Names: harness/influence/preconditioner.py; also the rows that a step is checked on, and
    `fitted`, the rows used and left out.
    """
    folder, about = _complete(opened, pool, factors, places)
    _allowed(folder, factors)
    return read_files(folder, about["files"])


def estimator(opened: Opened, pool: Pool, factors: Factors, places: Places) -> Ekfac:
    """Return what scores with these factors, its damping raised where the fit has raised it."""
    folder, _ = _complete(opened, pool, factors, places)
    raised = _allowed(folder, factors).damping
    return replace(settings_of(factors), damping=factors.damping * raised)


def _complete(
    opened: Opened, pool: Pool, factors: Factors, places: Places
) -> tuple[Path, dict[str, Any]]:
    refuse_absent(places, opened, pool, factors)
    folder = places.factors(key(opened, pool, factors))
    return folder, read_json(folder / ABOUT)


def _told(work: Work) -> str:
    factors = work.factors
    rows, modules = len(work.index), len(work.uses)
    cut = f"{len(work.row_parts())} x {len(work.module_parts())} parts"
    return f"{factors.strategy} by {factors.fitter}: {rows} rows, {modules} modules, {cut}"


def _stages(work: Work) -> None:
    """Run every stage that is not there yet, look at the whole, and drop what is not needed."""
    strategy, files, eigen = work.factors.strategy, [ROWS], {}
    preflight(work)
    if strategy in ROTATED:
        eigen = fit_stages.eigendecompositions(work, fit_stages.covariances(work))
        files += [path.name for path in eigen.values()]
    if strategy in ("ekfac", "diagonal"):
        files += [path.name for path in fit_stages.second_moments(work, eigen).values()]
    _keep_rows(work)
    health = _health(work, files)
    write_json(work.folder / HEALTH, health)
    about = {
        "parts": parts(work.opened, work.pool, work.factors),
        "strategy": strategy,
        "trace_ridge": work.factors.trace_ridge,
        "modules": [use.name for use in work.uses],
        "files": files,
    }
    write_json(work.folder / ABOUT, about)
    for pattern in ("covariances-*-*.safetensors", "moments-*-*.safetensors", "*.part-*"):
        for path in work.folder.glob(pattern):
            path.unlink()


def _keep_rows(work: Work) -> None:
    """Write the rows that a finite difference is checked on, and how many were used."""
    kept, wanted = work.kept(), settings_of(work.factors).check_rows
    identity = work.identity("inverse", kept.tolist())
    if work.found(work.folder / ROWS, identity):
        return
    spread = kept[np.linspace(0, len(kept) - 1, min(wanted, len(kept))).astype(int)]
    state = check_rows(work.pool.batch(spread), wanted)
    state["fitted"] = torch.tensor([len(kept), len(work.index) - len(kept)])
    work.keep(work.folder / ROWS, identity, state)


def _health(work: Work, files: list[str]) -> dict[str, Any]:
    """Return what is known of the factors; UnsoundError where an inverse has no number."""
    factors, damping = work.factors, work.factors.damping * work.decisions.damping
    state = read_files(work.folder, files)
    table = spectra(state, factors.strategy, damping, factors.damping_unit)
    for module, found in table.items():
        smallest, added = float(found["spectrum"]["min"]), float(found["spectrum"]["damping"])
        with guarded(work, "inverse", "", module, "more-damping"):
            check_inverse(smallest, added, module)
    used, skipped = state["fitted"].tolist()
    return {
        "rows": used,
        "skipped_rows": skipped,
        "covariance_dtype": work.options("covariances").covariance_dtype,
        "precision": factors.precision,
        "trace_ridge": factors.trace_ridge,
        "damping": damping,
        "damping_unit": factors.damping_unit,
        "preflight": {
            k: v for k, v in read_json(work.folder / PREFLIGHT).items() if k != "made_from"
        },
        "decisions": work.decisions.log,
        "masked_rows": work.decisions.masked,
        "modules": table,
    }
