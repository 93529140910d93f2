"""The parts that a fit is cut into: rows by modules, each a file that is found again when whole.

A file's header names what it was made from (rows, modules, precision, the files before it). One
that was made from something else is made again, so nothing has to be deleted when a row is left
out or a stage is fitted anew, and nothing stale is ever read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from harness.attribution.fit_key import chosen, estimator
from harness.attribution.nonfinite import Decisions, UnsoundError
from harness.errors import SpecError
from harness.identity import digest
from harness.influence.factor_files import facts_of, save_state
from harness.influence.fisher import countable
from harness.influence.fisher_by_hooks import unsound_rows
from harness.influence.fisher_flops import fit_flops
from harness.influence.query_gradients import network_flops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.api import State
    from harness.attribution.fit_spec import Factors
    from harness.attribution.opened import Opened
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool
    from harness.influence.ekfac import Ekfac
    from harness.influence.fisher import Pool as FisherPool
    from harness.influence.selection import Use
    from harness.view import RunView

Stage = Literal["preflight", "covariances", "eigendecomposition", "lambda", "inverse"]


@dataclass
class Work:
    """One fit: what it looks at, where it writes, and what was decided on the way."""

    opened: Opened
    pool: Pool
    factors: Factors
    folder: Path
    progress: Progress
    decisions: Decisions
    _network: dict[int, float] = field(default_factory=dict)

    @property
    def view(self) -> RunView:
        """The run's view."""
        return self.opened.view

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Rows of the pool to fit on, those left out among them."""
        return chosen(self.opened, self.pool, self.factors)

    @cached_property
    def uses(self) -> list[Use]:
        """The chosen modules, in the model's order; SpecError where they cannot be fitted."""
        try:
            return estimator(self.factors).uses(self.view)
        except ValueError as error:
            raise SpecError(f"factors.modules: {str(error).removeprefix('modules: ')}") from None

    def options(self, stage: Stage) -> Ekfac:
        """Return the engine's settings in a stage."""
        options = estimator(self.factors)
        if stage in self.decisions.float32:
            return replace(options, precision="float32", covariance_dtype="float32")
        return options

    def is_small(self, stage: Stage) -> bool:
        """Tell whether something smaller than float32 is computed with in a stage."""
        options = self.options(stage)
        dtype = options.covariance_dtype if stage == "covariances" else "float32"
        return options.precision != "float32" or dtype.endswith("16")

    def kept(self) -> NDArray[np.int64]:
        """Return the rows of the pool that are fitted on."""
        masked = {(domain, row) for domain, row in self.decisions.masked}
        return np.array([i for i in self.index if self.pool.picks[int(i)] not in masked], dtype=int)

    def row_parts(self) -> list[NDArray[np.int64]]:
        """Return the rows of each part; parts stay the same when a row is left out."""
        kept = set(self.kept().tolist())
        parts = np.array_split(self.index, min(self.factors.data_partitions, len(self.index)))
        found = [np.array([i for i in part if int(i) in kept], dtype=int) for part in parts]
        found = [part for part in found if len(part)]
        if not found:
            raise SpecError(f"{self.folder}: every row was left out; look at health and data")
        return found

    def module_parts(self) -> list[list[Use]]:
        """Return the modules of each part, in order."""
        count = min(self.factors.module_partitions, len(self.uses))
        ends = np.linspace(0, len(self.uses), count + 1).astype(int)
        return [self.uses[low:high] for low, high in pairwise(ends)]

    def rows(self, part: NDArray[np.int64]) -> FisherPool:
        """Return rows of the pool as the engine wants them; labels do not depend on the part."""
        return countable(self.view, self.pool.batch(part), self.factors.labels)

    def identity(self, stage: Stage, *facts: Any) -> str:
        """Return what a file of a stage is made from, as a digest."""
        options = self.options(stage)
        numbers = [options.precision, options.covariance_dtype]
        return digest([stage, self.folder.name, numbers, *facts])

    def found(self, path: Path, identity: str) -> bool:
        """Tell whether a file is there, made from just this."""
        return facts_of(path).get("made_from") == identity

    def keep(self, path: Path, identity: str, state: State) -> None:
        """Write a file, whole or not at all."""
        save_state(path, state, {"made_from": identity})

    def bill(self, uses: list[Use], rows: FisherPool, stage: Stage) -> None:
        """Charge one part of a stage: the network's passes, and the products on top."""
        first = id(uses[0].module)
        if first not in self._network:
            self._network[first] = network_flops(self.view, uses, rows.rows)
        options = self.options(stage)
        extra = fit_flops(uses, rows, replace(options, strategy="kfac"))
        if stage == "lambda":
            both = fit_flops(uses, rows, options)
            extra = both - extra if options.strategy == "ekfac" else both
        size = len(rows.rows.rows)
        self.view.bill(self._network[first] * size + extra, rows.rows.targets.numel())

    def blamed(self) -> list[tuple[str, int]]:
        """Return (domain, row) of each row with no target, or with a value that is not finite."""
        picks, bad = self.pool.picks, []
        for part in self.row_parts():
            batch = self.pool.batch(part)
            counted = batch.mask.any(1).cpu().numpy()
            bad += [picks[int(i)] for i in part[~counted]]
            there = part[counted]
            if len(there):
                rows = self.rows(there)
                worst = unsound_rows(self.view, self.uses, rows, self.factors.batch_rows)
                bad += [picks[int(there[i])] for i in worst]
        return bad


class Cell(NamedTuple):
    """One part of a stage."""

    path: Path
    uses: list[Use]
    rows: NDArray[np.int64]
    where: str
    """The part in words."""


def cells(work: Work, name: str) -> Iterator[Cell]:
    """Yield the parts of a stage, modules by modules."""
    row_parts = work.row_parts()
    for m, uses in enumerate(work.module_parts()):
        for d, rows in enumerate(row_parts):
            path = work.folder / f"{name}-{m:03d}-{d:03d}.safetensors"
            yield Cell(path, uses, rows, f"data partition {d + 1} of {len(row_parts)}")


@contextmanager
def guarded(
    work: Work, stage: Stage, where: str, name: str = "", helps: str = ""
) -> Iterator[None]:
    """Tell of what goes wrong inside as an error of that stage and part."""
    place = ", ".join(part for part in (f"stage {stage}", where) if part)
    try:
        yield
    except UnsoundError:
        raise
    except FloatingPointError as error:
        helps = helps or ("retry-float32" if work.is_small(stage) else "mask")
        raise UnsoundError(f"{place}: {error}", stage, name, helps) from error
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from error
