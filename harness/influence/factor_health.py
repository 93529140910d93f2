"""What can go wrong between a covariance and its inverse, caught where it starts.

On a CPU `eigh` turns one NaN into all NaN without a word, a float16 sum overflows, a dead layer has
nothing to invert. Each is found at its own stage and raises FloatingPointError that names module,
stage and what to do; nothing is clipped or dropped in silence. A decomposition that fails climbs a
ladder of which the rung is recorded; its largest ridge is a millionth of the mean eigenvalue, since
more would flatten the spectrum and hide the cause. The price is a few products per matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.api import State

# The rungs of the ladder, in the order they are tried. Ridges are shares of trace / d.
RUNGS = (
    "float32",
    "float64",
    "symmetrised",
    "ridge 1e-12",
    "ridge 1e-9",
    "ridge 1e-6",
    "scipy evr",
    "scipy ev",
    "svd",
)
GIVEN = RUNGS.index("float64")  # what a decomposition is made in unless it fails
SIDES = {"A": "inputs", "G": "output gradients"}
RIDGES = {"ridge 1e-12": 1e-12, "ridge 1e-9": 1e-9, "ridge 1e-6": 1e-6}
ORTHOGONAL = 1e-3  # largest entry of |V'V - I|; float32 vectors of width 4,096 stay below 1e-5
ASYMMETRY = 1e-2  # of the largest entry; float16 sums stay below it
ZERO = 1e-7  # eigenvalues below this share of the largest are rounding in float32

Summary = dict[str, float | int | str]


class Decomposition(NamedTuple):
    """A symmetric matrix as vectors diag(values) vectors^T, and how it was found."""

    values: Tensor  # [d] float64, ascending
    vectors: Tensor  # [d, d] float64, columns
    rung: int  # index into RUNGS
    ridge: float  # what was added to the diagonal, absolute


def check_covariance(matrix: Tensor, module: str, side: str) -> None:
    """Refuse a covariance that is not finite, not symmetric, or zero; `side` says of what."""
    where = f"covariance of the {side} of module {module!r}"
    bad = int((~matrix.isfinite()).sum())
    if bad:
        fix = "sum it in float32 or float64, or look for the row"
        raise FloatingPointError(f"{where}: {bad} of {matrix.numel()} entries not finite; {fix}")
    largest = float(matrix.abs().max())
    apart = float((matrix - matrix.mT).abs().max())
    if apart > ASYMMETRY * largest:
        raise FloatingPointError(f"{where}: differs from its transpose by {apart} of {largest}")
    trace = float(matrix.double().trace())
    if not trace > 0:
        fix = "the loss does not see this module; leave it out of `modules`"
        raise FloatingPointError(f"{where}: its trace is {trace}; {fix}")


def fault(values: Tensor, vectors: Tensor) -> str:
    """Return what is wrong with a decomposition; "" if nothing is."""
    if not bool(values.isfinite().all()) or not bool(vectors.isfinite().all()):
        return "eigenvalues or eigenvectors not finite"
    eye = torch.eye(len(values), dtype=vectors.dtype, device=vectors.device)
    apart = float((vectors.mT @ vectors - eye).abs().max())
    return f"eigenvectors off orthogonal by {apart}" if apart > ORTHOGONAL else ""


def check_eigenvalues(values: Tensor, module: str, side: str) -> None:
    """Refuse a spectrum with an eigenvalue further below 0 than rounding takes it."""
    lowest, largest = float(values.min()), float(values.max())
    if lowest < -ASYMMETRY * largest:
        where = f"eigendecomposition of the {side} of module {module!r}"
        fix = "sum the covariance in float32 or float64"
        raise FloatingPointError(f"{where}: an eigenvalue is {lowest} of {largest}; {fix}")


def check_inverse(smallest: float, damping: float, module: str) -> None:
    """Refuse an inverse 1 / (smallest + damping) that float32 has no number for."""
    if not smallest + damping > 1 / torch.finfo(torch.float32).max:
        where = f"inverse of module {module!r}"
        raise FloatingPointError(f"{where}: 1 / ({smallest} + {damping}) overflows float32")


def decompose(matrix: Tensor, module: str, side: str, start: str = "float64") -> Decomposition:
    """Decompose a checked covariance, climbing the ladder from `start` until nothing is wrong."""
    tried = []
    for rung in range(RUNGS.index(start), len(RUNGS)):
        try:
            values, vectors, ridge = _attempt(matrix, RUNGS[rung])
        except (ArithmeticError, RuntimeError, ValueError) as error:  # each library has its own
            tried.append(f"{RUNGS[rung]}: {str(error).splitlines()[0]}")
            continue
        wrong = fault(values, vectors)
        if not wrong:
            return Decomposition(values.double(), vectors.double(), rung, ridge)
        tried.append(f"{RUNGS[rung]}: {wrong}")
    where = f"eigendecomposition of the {side} of module {module!r}"
    raise FloatingPointError(f"{where}: every rung failed ({'; '.join(tried)})")


def _attempt(matrix: Tensor, rung: str) -> tuple[Tensor, Tensor, float]:
    if rung in ("float32", "float64"):
        values, vectors = torch.linalg.eigh(matrix.to(getattr(torch, rung)))
        return values, vectors, 0.0
    both = matrix.double()
    both = (both + both.mT) / 2
    if rung in RIDGES:
        ridge = RIDGES[rung] * float(both.trace()) / len(both)
        values, vectors = torch.linalg.eigh(both + ridge * torch.eye(len(both)).to(both))
        return values, vectors, ridge
    values, vectors = _ways()[rung](both)
    return values, vectors, 0.0


def _ways() -> dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    from scipy import linalg

    def lapack(driver: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def solve(matrix: Tensor) -> tuple[Tensor, Tensor]:
            values, vectors = linalg.eigh(matrix.cpu().numpy(), driver=driver)
            return torch.from_numpy(values).to(matrix), torch.from_numpy(vectors).to(matrix)

        return solve

    def svd(matrix: Tensor) -> tuple[Tensor, Tensor]:
        left, values, right = torch.linalg.svd(matrix)
        signs = (left * right.mT).sum(0).sign()  # a negative eigenvalue turns one side round
        return (values * signs).flip(0), left.flip(1)

    return {
        "symmetrised": lambda matrix: tuple(torch.linalg.eigh(matrix)),
        "scipy evr": lapack("evr"),
        "scipy ev": lapack("ev"),
        "svd": svd,
    }


def check_lambda(values: Tensor, module: str) -> None:
    """Refuse second moments [out, in] that are not finite, negative, or all zero."""
    where = f"lambda of module {module!r}"
    bad = int((~values.isfinite()).sum())
    if bad:
        raise FloatingPointError(f"{where}: {bad} of {values.numel()} entries not finite")
    if float(values.min()) < 0:
        raise FloatingPointError(f"{where}: a mean of squares is {float(values.min())}")
    if float(values.max()) == 0:
        fix = "leave the module out of `modules`"
        raise FloatingPointError(f"{where}: all zero, so there is nothing to invert; {fix}")


def eigenvalue_summary(values: Tensor, rung: int, ridge: float) -> Summary:
    """Return what a reader wants of one spectrum, as plain JSON values."""
    spectrum = values.double()
    largest = float(spectrum.max())
    above = spectrum[spectrum > ZERO * largest]
    return {
        "size": len(spectrum),
        "min": float(spectrum.min()),
        "max": largest,
        "mean": float(spectrum.mean()),
        "negative": int((spectrum < 0).sum()),
        "rank": len(above),
        "stable_rank": float(spectrum.clamp(min=0).sum()) / largest,
        "condition": largest / float(above.min()),
        "dtype": str(values.dtype).removeprefix("torch."),
        "rung": RUNGS[rung],
        "ridge": ridge,
    }


def lambda_summary(values: Tensor, damping: float) -> Summary:
    """Return the same of the spectrum that is inverted; damped: the share below the damping."""
    spectrum = values.double()
    return {
        "min": float(spectrum.min()),
        "max": float(spectrum.max()),
        "mean": float(spectrum.mean()),
        "stable_rank": float(spectrum.sum()) / float(spectrum.max()),
        "condition_damped": (float(spectrum.max()) + damping) / (float(spectrum.min()) + damping),
        "damping": damping,
        "damped": float((spectrum < damping).double().mean()),
    }


def decomposed(covariances: State, ready: State | None = None) -> State:
    """Return `A_vec:M`, `A_val:M`, `A_rung:M` and the same of G, float32, of `A:M` and `G:M`.

    `ready` holds decompositions tried elsewhere, in float64: each is kept unless it is at fault.
    """
    state: State = {}
    for name, matrix in covariances.items():
        side, _, module = name.partition(":")
        vec, val = f"{side}_vec:{module}", f"{side}_val:{module}"
        rung, ridge = float(GIVEN), 0.0
        if ready and not fault(ready[val], ready[vec]):
            state |= {val: ready[val].float(), vec: ready[vec].float()}
        else:
            start = "float64" if ready is None else "symmetrised"
            done = decompose(matrix, module, SIDES[side], start)
            rung, ridge = float(done.rung), done.ridge
            state |= {val: done.values.float(), vec: done.vectors.float().contiguous()}
        state[f"{side}_rung:{module}"] = torch.tensor([rung, ridge], dtype=torch.float64)
    return state
