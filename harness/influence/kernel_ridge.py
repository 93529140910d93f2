"""Kernel ridge regression from landmarks: scores known for L rows are carried to N others.

The kernel is exp(-d^2 / (2 s^2)) with s the median distance between landmarks, and the ridge is
`damping` times the mean diagonal of the kernel, as in the code of arXiv:2505.19051. What is fitted
knows embeddings alone: one factorization serves every query, and queries may come later.
The linear kernel <x, y>, not centered, and a ridge in the kernel's own units are there for what was
done with them elsewhere: what embeddings have in common dominates them, so scores hardly differ.
All of it is in float64. Shapes: L landmarks, N rows, Q queries, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from harness import rng

if TYPE_CHECKING:
    from torch import Tensor

# Landmarks among which the median distance is taken.
BANDWIDTH_SAMPLE = 1000

Kernel = Literal["rbf", "linear"]
Ridge = Literal["relative", "absolute"]


@dataclass(frozen=True)
class KernelRidge:
    """A fitted regression; `fit` makes it."""

    center: Tensor  # [E], taken off all embeddings, so that their distances keep their digits
    landmarks: Tensor  # [L, E], centered
    bandwidth: float  # s, in units of the embedding
    factor: Tensor  # [L, L], lower Cholesky factor of kernel + ridge
    kernel: Kernel = "rbf"

    def coefficients(self, targets: Tensor) -> Tensor:
        """Return what `predict` wants, for the landmarks' known scores [L] or [L, Q].

        FloatingPointError names the first landmark whose score is not finite.
        """
        if len(targets) != len(self.landmarks):
            raise ValueError(f"{len(targets)} scores for {len(self.landmarks)} landmarks")
        right = targets.to(self.factor).reshape(len(targets), -1)
        _check_finite(right, "the score of landmark")
        return torch.cholesky_solve(right, self.factor).reshape(targets.shape)

    def predict(self, embeddings: Tensor, coefficients: Tensor, chunk: int = 4096) -> Tensor:
        """Return the scores [N] or [N, Q] of rows with embeddings [N, E], `chunk` at a time.

        FloatingPointError names the first row whose embedding is not finite.
        """
        _check_embeddings(embeddings, "the embedding of row")
        if embeddings.shape[1] != self.landmarks.shape[1]:
            sizes = f"{embeddings.shape[1]} numbers, a landmark's {self.landmarks.shape[1]}"
            raise ValueError(f"an embedding has {sizes}")
        scores = self.factor.new_empty(len(embeddings), *coefficients.shape[1:])
        for start in range(0, len(embeddings), chunk):
            rows = embeddings[start : start + chunk].to(self.center) - self.center
            scores[start : start + chunk] = self._kernel(rows) @ coefficients
        return scores

    def _kernel(self, rows: Tensor) -> Tensor:
        if self.kernel == "linear":
            return rows @ self.landmarks.T
        return _rbf(_squared_distances(rows, self.landmarks), self.bandwidth)


def fit(
    landmarks: Tensor,
    damping: float = 1e-2,
    seed: int = 0,
    kernel: Kernel = "rbf",
    ridge: Ridge = "relative",
) -> KernelRidge:
    """Factorize the kernel of landmark embeddings [L, E].

    The ridge is `damping`, times the kernel's mean diagonal unless it is absolute.

    Beyond BANDWIDTH_SAMPLE landmarks, a sample keyed by `seed` gives the bandwidth; up to there the
    fit does not depend on their order. FloatingPointError names the first landmark that is not
    finite; ValueError if the kernel is singular, which damping mends.
    """
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping is {damping}; it must be finite and at least 0")
    _check_embeddings(landmarks, "the embedding of landmark")
    if not len(landmarks):
        raise ValueError("kernel ridge regression needs at least one landmark")
    # Closer than its input's rounding, two landmarks are one.
    resolution = torch.finfo(landmarks.dtype).eps * float(landmarks.double().norm(dim=1).max())
    center = landmarks.double().mean(0)
    if kernel == "linear":
        center = torch.zeros_like(center)
    points = landmarks.double() - center
    if kernel == "linear":
        bandwidth, gram = 1.0, points @ points.T
    else:
        squared = _squared_distances(points, points)
        bandwidth = _median_distance(squared, resolution, seed)
        gram = _rbf(squared, bandwidth)
    gram.diagonal().add_(damping * (gram.diagonal().mean() if ridge == "relative" else 1.0))
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed):
        raise ValueError(
            f"the kernel of {len(points)} landmarks is singular at damping {damping:g}: "
            f"landmark {int(failed) - 1} is too close to others; raise the damping"
        )
    return KernelRidge(center, points, bandwidth, factor, kernel)


def _median_distance(squared: Tensor, resolution: float, seed: int) -> float:
    """Return the median distance of different landmarks [L, L]; 1 where none differ."""
    count = len(squared)
    if count > BANDWIDTH_SAMPLE:
        order = torch.randperm(count, generator=rng.generator(seed, "bandwidth"))
        chosen = order[:BANDWIDTH_SAMPLE].to(squared.device)
        squared = squared[chosen][:, chosen]
    i, j = torch.triu_indices(len(squared), len(squared), offset=1, device=squared.device)
    distances = squared[i, j].sqrt()
    # Where over half of all pairs are copies, their median would be no distance at all.
    if len(distances) and distances.median() <= resolution:
        distances = distances[distances > resolution]
    return float(distances.median()) if len(distances) else 1.0


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_(min=0)


def _rbf(squared: Tensor, bandwidth: float) -> Tensor:
    return (squared / (-2 * bandwidth**2)).exp()


def _check_embeddings(embeddings: Tensor, what: str) -> None:
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise ValueError(f"embeddings are {found}, not floats [rows, size]")
    _check_finite(embeddings, what)


def _check_finite(rows: Tensor, what: str) -> None:
    bad = (~rows.isfinite()).any(1).nonzero()
    if len(bad):
        raise FloatingPointError(f"{what} {int(bad[0])} is not finite")
