"""What makes two fits the same: weights, rows, the settings that change factors, and the engine.

How the work is cut (partitions, rows per pass, workers) changes sums by rounding alone and is left
out, so that a fit that ran out of memory goes on with other parts. Damping is applied when rows are
scored, and `on_nonfinite` when something fails: both are written down beside the factors instead.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import SpecError
from harness.files import read_json
from harness.identity import code, digest
from harness.influence.ekfac import Ekfac
from harness.influence.factor_files import HEALTH
from harness.rng import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.attribution.fit_spec import Factors
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.rows import Pool

ABOUT = "about.json"
FORMAT = 1
ENGINE = [f"harness.influence.{name}" for name in ("ekfac", "fisher_by_hooks")]
ENGINE += [f"harness.influence.{name}" for name in ("reference_factors", "factor_health")]
# Settings that change nothing but rounding, or that are applied later.
LEFT_OUT = ["data_partitions", "module_partitions", "batch_rows", "workers", "rows"]
LEFT_OUT += ["damping", "damping_unit", "on_nonfinite"]
NAMES = {"weights": "the model's weights", "rows": "the rows", "engine": "the engine"}
PLURAL = ("weights", "rows")

Parts = dict[str, Any]


def parts(opened: Opened, pool: Pool, factors: Factors) -> Parts:
    """Return what the factors depend on, by part, as JSON values."""
    settings = {k: v for k, v in asdict(factors).items() if k not in LEFT_OUT}
    engine = {"format": FORMAT, "torch": torch.__version__, "code": code(*ENGINE)}
    if factors.fitter == "kronfluence":
        engine["kronfluence"] = _kronfluence()
    return {
        "weights": opened.model_id,
        "rows": pool.only(chosen(opened, pool, factors)).id,
        "engine": engine,
        **{f"factors.{name}": value for name, value in settings.items()},
    }


def key(opened: Opened, pool: Pool, factors: Factors) -> str:
    """Return 16 hex digits that name the folder of these factors."""
    return digest(_plain(parts(opened, pool, factors)))


def chosen(opened: Opened, pool: Pool, factors: Factors) -> NDArray[np.int64]:
    """Return the rows of the pool to fit on, ascending; the same ones whatever is asked first."""
    size, wanted = len(pool), factors.rows
    if wanted is None:
        return np.arange(size)
    refuse_too_many(factors, size)
    keyed = generator(opened.view.stream.data_seed, "factor rows")
    return np.sort(torch.randperm(size, generator=keyed).numpy()[:wanted])


def refuse_too_many(factors: Factors, size: int) -> None:
    """Raise SpecError where factors are to be fitted on more rows than a pool of `size` has."""
    wanted = factors.rows
    if wanted is not None and wanted > size:
        fix = "ask for fewer, or leave it out to take them all"
        raise SpecError(f"factors.rows: {wanted}, but the pool has {size} rows; {fix}")


def estimator(factors: Factors) -> Ekfac:
    """Return the engine's estimator of these settings."""
    return Ekfac(
        strategy=factors.strategy,
        damping=factors.damping,
        damping_unit=factors.damping_unit,
        labels=factors.labels,
        modules=factors.modules,
        biases=factors.biases,
        fitter=factors.fitter,
        precision=factors.precision,  # type: ignore[arg-type]  # float16 was refused
        covariance_dtype=factors.covariance_dtype,
        chunk_rows=factors.batch_rows,
    )


def _kronfluence() -> str:
    try:
        return metadata.version("kronfluence")
    except metadata.PackageNotFoundError:
        fix = 'pip install "steelyard[attribution]", or set factors.fitter = "hooks"'
        raise SpecError(f"kronfluence is not installed; {fix}") from None


def refuse_absent(places: Places, opened: Opened, pool: Pool, factors: Factors) -> None:
    """Raise SpecError where these factors are not fitted; it names what others were fitted on."""
    now = _plain(parts(opened, pool, factors))
    folder = places.factors(digest(now))
    about = read_json(folder / ABOUT)
    if about is not None and about["parts"] == now:
        return
    fix = "run `steelyard attribute fit`"
    if about is not None:
        raise SpecError(f"{folder}: stale: {_changed(about['parts'], now)}; {fix}")
    others = {path.parent: read_json(path) for path in sorted(folder.parent.glob(f"*/{ABOUT}"))}
    if not others:
        raise SpecError(f"{folder}: no factors; {fix}")
    nearest = min(others, key=lambda path: len(_apart(others[path]["parts"], now)))
    old, counts = others[nearest]["parts"], _counts(nearest, chosen(opened, pool, factors).size)
    told = _changed(old, now, counts)
    raise SpecError(f"{folder}: no factors; those that are there: {told}; {fix}")


def _apart(old: Parts, now: Parts) -> list[str]:
    return [name for name in {**old, **now} if old.get(name) != now.get(name)]


def _counts(there: Path, wanted: int) -> str:
    """Say how many rows the factors in a folder were fitted on, and how many are asked for."""
    health = read_json(there / HEALTH)
    if health is None:
        return ""
    fitted = health["rows"] + health["skipped_rows"]
    same = "as many, but others: " if fitted == wanted else ""
    return f" ({same}{fitted} and {wanted} rows)"


def _changed(old: Parts, now: Parts, counts: str = "") -> str:
    told = []
    for name in _apart(old, now):
        verb = "were" if name in PLURAL else "was"
        is_now = "are" if name in PLURAL else "is"
        text = f"{NAMES.get(name, name)} {verb} {old.get(name)} and {is_now} {now.get(name)}"
        told.append(text + (counts if name == "rows" else ""))
    return ", ".join(told)


def _plain(found: Parts) -> Parts:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
