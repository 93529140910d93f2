"""The stages of a fit, each looked at before the next.

    covariances          sums over the tokens of a part of the rows: finite, or the row is named
    eigendecomposition   of their mean, module by module, in float64; a ladder where that fails
    lambda               sums over the rows of a part of the squared gradient, in that basis

Sums of parts are added in float64, so how the rows are cut shows in rounding alone.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.attribution.fit_work import Work, cells, guarded
from harness.influence import fisher_by_hooks, reference_factors
from harness.influence.ekfac import import_kronfluence
from harness.influence.factor_files import facts_of, load_state
from harness.influence.factor_health import (
    SIDES,
    check_covariance,
    check_eigenvalues,
    check_lambda,
    decomposed,
)
from harness.influence.preconditioner import ROTATED

if TYPE_CHECKING:
    from harness.api import State
    from harness.influence.fisher import Pool as FisherPool
    from harness.influence.fisher_by_hooks import Advance
    from harness.influence.selection import Use

COUNT = "count"  # of the tokens or rows that a part's sums are over

Sums = dict[str, list[Path]]  # module -> the files with its part of the sums


def covariances(work: Work) -> Sums:
    """Sum the covariances of every part that is not there yet."""
    parts, found = list(cells(work, "covariances")), defaultdict(list)
    with work.progress.track(sum(len(part.rows) for part in parts), "covariances") as advance:
        for cell in parts:
            for use in cell.uses:
                found[use.name].append(cell.path)
            names = [use.name for use in cell.uses]
            identity = work.identity("covariances", cell.rows.tolist(), names)
            if work.found(cell.path, identity):
                advance(len(cell.rows))
                continue
            rows = work.rows(cell.rows)
            with guarded(work, "covariances", cell.where):
                sums, count = _covariance_sums(work, cell.uses, rows, advance)
                _refuse_covariances(work, cell.uses, rows, sums, count)
            work.bill(cell.uses, rows, "covariances")
            work.keep(cell.path, identity, {**sums, COUNT: torch.tensor(count)})
    return found


def eigendecompositions(work: Work, sums: Sums) -> dict[str, Path]:
    """Decompose both covariances of every module; return each module's file."""
    found = {}
    with work.progress.track(len(work.uses), "eigendecomposition") as advance:
        for number, use in enumerate(work.uses):
            path = found[use.name] = work.folder / f"eigen-{number:03d}.safetensors"
            shares = {side: work.decisions.ridges.get(f"{side}:{use.name}", 0.0) for side in "AG"}
            identity = work.identity(
                "eigendecomposition",
                use.name,
                _made_from(sums[use.name]),
                work.factors.trace_ridge,
                shares,
            )
            if not work.found(path, identity):
                state: State = {}
                for side in "AG":
                    name = f"{side}:{use.name}"
                    mean = _mean(sums[use.name], name).to(work.view.stream.device)
                    with guarded(work, "covariances", "all data partitions", name):
                        check_covariance(mean, use.name, SIDES[side])
                    with guarded(work, "eigendecomposition", "", name, "more-damping"):
                        state |= _decompose(work, name, mean, shares[side])
                work.keep(path, identity, state)
            advance(1)
    return found


def second_moments(work: Work, eigen: dict[str, Path]) -> dict[str, Path]:
    """Sum the squared gradients of every part, then mean them by module; return those files."""
    sums = _second_moment_sums(work, eigen)
    found = {}
    for number, use in enumerate(work.uses):
        path = found[use.name] = work.folder / f"lambda-{number:03d}.safetensors"
        identity = work.identity("lambda", use.name, _made_from(sums[use.name]))
        if not work.found(path, identity):
            name = f"lambda:{use.name}"
            mean = _mean(sums[use.name], name)
            with guarded(work, "lambda", "all data partitions"):
                check_lambda(mean, use.name)
            work.keep(path, identity, {name: mean.float()})
    return found


def _second_moment_sums(work: Work, eigen: dict[str, Path]) -> Sums:
    parts, found = list(cells(work, "moments")), defaultdict(list)
    with work.progress.track(sum(len(part.rows) for part in parts), "lambda") as advance:
        for cell in parts:
            for use in cell.uses:
                found[use.name].append(cell.path)
            names = [use.name for use in cell.uses]
            bases = _made_from([eigen[name] for name in names if name in eigen])
            identity = work.identity("lambda", cell.rows.tolist(), names, bases)
            if work.found(cell.path, identity):
                advance(len(cell.rows))
                continue
            rows, vectors = work.rows(cell.rows), None
            if work.factors.strategy in ROTATED:
                device = work.view.stream.device  # once, not for every batch
                files = (load_state(eigen[name]) for name in names)
                vectors = {k: v.to(device) for state in files for k, v in state.items()}
            with guarded(work, "lambda", cell.where):
                sums = _moment_sums(work, cell.uses, rows, vectors, advance)
                _refuse_moments(work, cell.uses, rows, sums)
            work.bill(cell.uses, rows, "lambda")
            work.keep(cell.path, identity, {**sums, COUNT: torch.tensor(len(rows.rows.rows))})
    return found


def _covariance_sums(
    work: Work, uses: list[Use], rows: FisherPool, advance: Advance
) -> tuple[State, int]:
    options = work.options("covariances")
    if options.fitter == "kronfluence":
        return reference_factors.covariance_sums_by_kronfluence(
            import_kronfluence(), work.view, uses, rows, options, work.factors.workers, advance
        )
    dtype = getattr(torch, options.covariance_dtype)
    return fisher_by_hooks.covariance_sums(
        work.view, uses, rows, options.chunk_rows, dtype, options.precision, advance
    )


def _moment_sums(
    work: Work, uses: list[Use], rows: FisherPool, vectors: State | None, advance: Advance
) -> State:
    options = work.options("lambda")
    if options.fitter == "kronfluence":
        package, workers = import_kronfluence(), work.factors.workers
        return reference_factors.second_moment_sums_by_kronfluence(
            package, work.view, uses, rows, vectors, options, workers, advance
        )
    return fisher_by_hooks.second_moment_sums(
        work.view, uses, rows, options.chunk_rows, vectors, options.precision, advance
    )


def _refuse_covariances(
    work: Work, uses: list[Use], rows: FisherPool, sums: State, count: int
) -> None:
    """Refuse a part that is not finite, by the row where one is to blame."""
    bad = {n: t.double() / count for n, t in sums.items() if not bool(t.isfinite().all())}
    fisher_by_hooks.check_covariances(work.view, uses, rows, work.factors.batch_rows, bad)


def _refuse_moments(work: Work, uses: list[Use], rows: FisherPool, sums: State) -> None:
    for name, total in sums.items():
        if not bool(total.isfinite().all()):
            fisher_by_hooks.refuse_row(work.view, uses, rows, work.factors.batch_rows, "lambda")
            check_lambda(total, name.removeprefix("lambda:"))


def _decompose(work: Work, name: str, mean: torch.Tensor, share: float) -> State:
    """Return the decomposition of a mean covariance, with the ridges asked for and decided on."""
    side, _, module = name.partition(":")
    trace = float(mean.trace())
    mean.diagonal().add_(work.factors.trace_ridge * trace + share * trace / len(mean))
    found = decomposed({name: mean})
    check_eigenvalues(found[f"{side}_val:{module}"], module, SIDES[side])
    if share:
        found[f"{side}_rung:{module}"][1] += share * trace / len(mean)
    return found


def _mean(paths: list[Path], name: str) -> torch.Tensor:
    """Return the sum over parts divided by what it is over, float64."""
    total, count = None, 0
    for path in paths:
        part = load_state(path)
        count += int(part[COUNT])
        total = part[name].double() if total is None else total.add_(part[name])
    assert total is not None
    return total.div_(count)


def _made_from(paths: list[Path]) -> list[str]:
    return [facts_of(path)["made_from"] for path in paths]
