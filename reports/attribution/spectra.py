"""Fitted factors as numbers: what a scoring divides by, module by module, read with numpy alone.

One module is in memory at a time; what is kept of it is small: a few hundred points of each curve,
a coarse heatmap and the figures that the text is made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from harness.attribution.matching import matching
from harness.errors import SpecError
from harness.files import read_json

Array = NDArray[np.float64]
POINTS = 400  # of a sorted spectrum that are drawn
CELLS = 96  # of a heatmap, along either side
SHARES = (0.5, 0.9, 0.99)
SEED_RIDGE = 0.2  # seed 002 added 10 to 20 % of the trace to every diagonal
ZERO = 1e-7  # eigenvalues below this share of the largest are rounding in float32


class Side(NamedTuple):
    """The spectrum of one of a module's two covariances, ascending, without a trace ridge."""

    values: Array  # [d]
    rung: str
    ridge: float

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue that is more than rounding."""
        return float(self.values[-1] / self.values[self.values > ZERO * self.values[-1]][0])

    def ridged(self, share: float) -> Array:
        """Return the eigenvalues with a share of the trace on the diagonal."""
        ridged: Array = self.values + share * self.values.sum()
        return ridged


@dataclass(frozen=True)
class Spectrum:
    """What is inverted for one module: eigenvalues of its block of the Fisher."""

    module: str
    layer: int | None
    kind: str
    """The module's name without its layer, the same in every layer."""
    shape: tuple[int, int]
    """Outputs and inputs, the bias among them."""
    ranks: Array
    values: Array
    """Eigenvalues at these ranks, ascending: [POINTS] or all."""
    held_at: Array
    """Counts of the largest directions at which `held`, their share of the sum, is known."""
    held: Array
    heat: Array
    """Mean of blocks of the matrix, [CELLS, CELLS] at most."""
    total: float
    largest: float
    smallest: float
    median: float
    damping: float
    damped: float
    """Share of the directions below the damping."""
    reach: tuple[int, ...]
    """How many of the largest directions hold each of SHARES of the sum."""
    last_rows: float
    last_columns: float
    """Share of the sum in the tenth of rows and of columns with the largest eigenvalues."""
    inputs: Side | None
    gradients: Side | None
    ridged: dict[str, float] | None
    """kfac: stable rank and condition with a fifth of the trace on both covariances."""

    @property
    def directions(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]

    @property
    def stable_rank(self) -> float:
        """Sum over the largest: how many directions of that size would do."""
        return self.total / self.largest

    @property
    def condition(self) -> float:
        """Largest over smallest; infinite where one is 0."""
        return self.largest / self.smallest if self.smallest > 0 else np.inf

    @property
    def condition_damped(self) -> float:
        """By how much the damped inverse weighs one direction more than another."""
        return (self.largest + self.damping) / (self.smallest + self.damping)


class Fitted(NamedTuple):
    """A factors folder: what it is, and its health at a damping."""

    folder: Path
    about: dict[str, Any]
    health: dict[str, Any]

    def damping(self, module: str) -> float:
        """Return the damping in the unit of a module's eigenvalues."""
        asked = float(self.health["damping"])
        if self.health["damping_unit"] == "absolute":
            return asked
        return asked * float(self.health["modules"][module]["spectrum"]["mean"])

    def chosen(self, layers: tuple[str, ...]) -> list[str]:
        """Return the modules that match a pattern; SpecError where one matches none."""
        modules: list[str] = self.about["modules"]
        if not layers:
            return modules
        return [modules[i] for i in matching(modules, "layers", layers, "fitted module")]


def open_fitted(folder: Path, damping: tuple[float, str] | None = None) -> Fitted:
    """Return what lies in a factors folder; SpecError where there is nothing to look at.

    `damping` and its unit are those of scoring; by default those that the factors were fitted with.
    """
    about, health = (read_json(folder / f"{name}.json") for name in ("about", "health"))
    if about is None or health is None:
        raise SpecError(f"{folder}: no complete factors; run `steelyard attribute fit`")
    if about["strategy"] == "identity":
        raise SpecError(f"{folder}: strategy identity has no curvature; there is nothing to draw")
    if damping is not None:
        health = {**health, "damping": damping[0], "damping_unit": damping[1]}
    return Fitted(folder, about, health)


def spectra(fitted: Fitted, layers: tuple[str, ...] = ()) -> Iterator[Spectrum]:
    """Yield the chosen modules' spectra in the model's order."""
    where = _index(fitted)
    for module in fitted.chosen(layers):

        def tensor(name: str, module: str = module) -> Array:
            with safe_open(where[f"{name}:{module}"], framework="numpy") as file:
                return np.asarray(file.get_tensor(f"{name}:{module}"), dtype=np.float64)

        rotated = f"A_val:{module}" in where
        inputs, gradients = (_side(fitted, tensor, module, s) if rotated else None for s in "AG")
        is_product = f"lambda:{module}" not in where
        if not is_product:
            matrix = tensor("lambda")
        else:
            assert inputs is not None
            assert gradients is not None
            matrix = np.outer(gradients.values.clip(0), inputs.values.clip(0))
        damping = fitted.damping(module)
        yield _spectrum(module, matrix, damping, inputs, gradients, is_product)


def _index(fitted: Fitted) -> dict[str, Path]:
    """Return which file holds each tensor."""
    found = {}
    for name in fitted.about["files"]:
        path = fitted.folder / name
        with safe_open(path, framework="numpy") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _side(fitted: Fitted, tensor: Any, module: str, side: str) -> Side:
    values = np.sort(tensor(f"{side}_val"))
    share = float(fitted.about["trace_ridge"])
    trace = values.sum() / (1 + share * len(values))
    health = fitted.health["modules"][module]["inputs" if side == "A" else "gradients"]
    return Side(values - share * trace, health["rung"], float(health["ridge"]))


def _spectrum(
    module: str,
    matrix: Array,
    damping: float,
    inputs: Side | None,
    gradients: Side | None,
    is_product: bool,
) -> Spectrum:
    flat = np.sort(matrix, axis=None)
    ranks = _ranks(len(flat))
    summed = np.cumsum(flat[::-1])
    tenth = [max(1, round(size / 10)) for size in matrix.shape]
    layer = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return Spectrum(
        module=module,
        layer=int(layer[1]) if layer else None,
        kind=module[layer.end() :] if layer and module[layer.end() :] else module,
        shape=(matrix.shape[0], matrix.shape[1]),
        ranks=ranks.astype(np.float64),
        values=flat[ranks],
        held_at=ranks + 1.0,
        held=summed[ranks] / summed[-1],
        heat=_coarse(matrix),
        total=float(summed[-1]),
        largest=float(flat[-1]),
        smallest=float(flat[0]),
        median=float(np.median(flat)),
        damping=damping,
        damped=float((flat < damping).mean()),
        reach=tuple(int(np.searchsorted(summed, s * summed[-1])) + 1 for s in SHARES),
        last_rows=float(matrix[-tenth[0] :].sum() / summed[-1]),
        last_columns=float(matrix[:, -tenth[1] :].sum() / summed[-1]),
        inputs=inputs,
        gradients=gradients,
        ridged=_ridged(inputs, gradients) if is_product else None,
    )


def _ranks(size: int) -> NDArray[np.int64]:
    """Return which of `size` sorted values to draw: closer together at both ends."""
    if size <= POINTS:
        return np.arange(size)
    ends = np.unique(np.geomspace(1, size, POINTS // 4).astype(np.int64)) - 1
    middle = np.linspace(0, size - 1, POINTS // 2).astype(np.int64)
    found: NDArray[np.int64] = np.unique(np.concatenate([ends, size - 1 - ends, middle]))
    return found


def _coarse(matrix: Array) -> Array:
    """Return means of blocks."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        edges = np.linspace(0, size, min(size, CELLS) + 1).astype(int)
        counts = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        matrix = np.add.reduceat(matrix, edges[:-1], axis=axis) / counts
    return matrix


def _ridged(inputs: Side | None, gradients: Side | None) -> dict[str, float]:
    assert inputs is not None
    assert gradients is not None
    both = [side.ridged(SEED_RIDGE) for side in (inputs, gradients)]
    sums, largest = (np.prod([f(v) for v in both]) for f in (np.sum, np.max))
    smallest = np.prod([v.min() for v in both])
    return {"stable_rank": float(sums / largest), "condition": float(largest / smallest)}
