"""ADO: sample by how fast each domain's loss falls, read off scaling laws fitted as it trains.

Jiang et al., "Adaptive Data Optimization: Dynamic Sample Selection with Scaling Laws", ICLR 2025,
arXiv:2410.11820; what the paper leaves open follows the official code, yidingjiang/ado
(src/data_selectors/ado.py at bc3d8d0). Every `every` steps a law

  L_k(n) = exp(e_k) + exp(a_k) n^(-alpha_k)        n: rows that the model has seen, of all domains

is fitted to each domain's training losses: smoothed by Savitzky-Golay, every tenth step, Huber loss
(1e-3) of log L, L-BFGS from 8 x 8 x 8 starts, alpha in [.001, .8], e >= .5, a <= 6.5. Then

  slope_k = max(alpha_k, .05) (L_k(n) - exp(e_k)) / n       how much a row takes off the loss
  rho_k  ~ slope_k mu_k h_k^.5, at least 1e-2               mu: natural proportions, h: moving
                                                            average (.9) of the realised shares
  pi = .9 pibar + .1 rho;   pibar <- pibar + (rho - pibar) / (steps taken)

Needs: training losses by domain, thousands of steps of them. Cost: seconds of CPU per domain and
fit, billed. Defaults: first fit after 1,000 steps, of which the first 500 are left out; then every
1,000. Deviations: the official configurations leave out the first 1,000 steps and start at 500 or
1,000. The official code keeps the bounds by penalties on the summed loss; here L-BFGS-B keeps them,
so that 192 of the 512 starts differ, and `starts` below that refines only the best. Until there are
101 steps the smoother is shorter. A fit that is not finite is dropped, as there, and noted.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Count
from harness.api import Mixer
from harness.domains import domain_mean

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

BOUNDS = [(-np.inf, 6.5), (0.5, np.inf), (0.001, 0.8)]  # of a, e, alpha
_STARTS = itertools.product(np.arange(-2, 6), np.arange(-2, 2, 0.5), np.arange(0, 0.8, 0.1))
GRID = np.unique(np.clip(np.array(list(_STARTS)), *np.array(BOUNDS).T), axis=0)  # 192 of 512 differ
HUBER = 1e-3


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ADO(Mixer):
    """Sample in proportion to the slope of each domain's own scaling law."""

    start: Count = 1000
    """No fit before this step; natural proportions until the first."""
    every: Count = 1000
    """Steps between fits, at multiples of it."""
    ignore: Annotated[int, Field(strict=True, ge=0)] = 500
    """First steps that no fit looks at."""
    stride: Count = 10
    """Every so many steps one loss enters the fit."""
    starts: Annotated[int, Field(strict=True, gt=0, le=len(GRID))] = len(GRID)
    """Starts of the grid that are refined, best first."""

    def check_length(self, num_steps: int, domains: tuple[str, ...]) -> None:
        """Refuse a run that ends before the first fit."""
        first = -(-self.start // self.every) * self.every
        if first >= num_steps - 1:
            when = f"first fit at {first} of {num_steps} steps"
            raise ValueError(f"start: {when}; lower it, or every")

    def init(self, view: View) -> State:
        """Start at natural proportions, with room for the whole history."""
        self.check_length(view.num_steps, view.domains)
        num_domains, prior = len(view.domains), view.prior
        nothing = torch.full((view.num_steps, num_domains), math.nan, dtype=torch.float64)
        shares = {name: prior.clone() for name in ("weights", "mean", "realised")}
        laws = torch.full((num_domains, 3), math.nan, dtype=torch.float64)
        return {**shares, "losses": nothing, "laws": laws, "rows": torch.tensor(0.0)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return pi [K]; natural proportions before the first fit."""
        if not state["laws"].isnan().any():
            rho = self._rho(view, state)
            state["weights"] = 0.9 * state["mean"] + 0.1 * rho
            state["mean"] = state["mean"] + (rho - state["mean"]) / view.step
        return state["weights"]

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Remember the batch's losses; fit when it is time."""
        num_domains, step = len(view.domains), view.step
        overall = float((losses * batch.mask).sum() / batch.mask.sum().clamp(min=1))
        empty = state["losses"][step - 1] if step else torch.full_like(view.prior, overall)
        state["losses"][step] = domain_mean(losses, batch.domains, num_domains, empty, batch.mask)
        counts = torch.bincount(batch.domains.cpu(), minlength=num_domains).double()
        state["realised"] = 0.9 * state["realised"] + 0.1 * counts / len(batch.rows)
        state["rows"] = state["rows"] + len(batch.rows)
        if step >= self.start and step % self.every == 0:
            laws = self._laws(state["losses"][: step + 1], len(batch.rows))
            if finite := bool(laws.isfinite().all()):
                state["laws"] = laws
            view.note("laws", {"fitted": laws.flatten().tolist() if finite else []})
        return super().observe(view, state, batch, losses)

    def _rho(self, view: View, state: State) -> Tensor:
        a, _, alpha = state["laws"].T
        slope = alpha.clamp(min=0.05) * a.exp() * state["rows"] ** (-alpha - 1)
        rho = slope * view.prior * state["realised"].sqrt()
        rho = (rho / rho.sum()).clamp(min=1e-2)
        return rho / rho.sum()

    def _laws(self, losses: Tensor, rows_per_step: int) -> Tensor:
        """Return a, e, alpha [K, 3] of the losses [steps, K]; NaN where there are too few."""
        from scipy.signal import savgol_filter

        history = losses.numpy()
        window = min(101, len(history) - (len(history) + 1) % 2)  # odd, and no longer than it
        history = savgol_filter(history, window, 3, axis=0) if window > 3 else history
        kept = slice(self.ignore, None, self.stride)
        rows = np.arange(1, len(history) + 1)[kept] * float(rows_per_step)
        if len(rows) < 4 or not (history[kept] > 0).all():
            return torch.full((losses.shape[1], 3), math.nan, dtype=torch.float64)
        laws = [fitted_law(rows, column, self.starts) for column in history[kept].T]
        return torch.tensor(np.array(laws))


def fitted_law(rows: np.ndarray, losses: np.ndarray, starts: int = len(GRID)) -> np.ndarray:
    """Return a, e, alpha of L(n) = exp(e) + exp(a) n^-alpha through losses [n] at rows [n]."""
    from scipy.optimize import minimize

    log_rows, wanted = np.log(rows), np.log(losses)

    def error_of(law: np.ndarray) -> tuple[float, np.ndarray]:
        a, e, alpha = law
        falling = a - alpha * log_rows
        found = np.logaddexp(falling, e)
        share = np.exp(falling - found)  # of the falling part: d found / d a
        error = found - wanted
        slope = np.clip(error, -HUBER, HUBER)
        value = np.sum(slope * (error - 0.5 * slope))
        gradient = slope @ np.stack([share, 1 - share, -share * log_rows], axis=1)
        return float(value), gradient

    order = np.argsort([error_of(start)[0] for start in GRID], kind="stable")
    how = {"jac": True, "bounds": BOUNDS, "options": {"maxiter": 200, "ftol": 0.0, "gtol": 1e-9}}
    tries = [minimize(error_of, at, method="L-BFGS-B", **how) for at in GRID[order[:starts]]]
    best: np.ndarray = min(tries, key=lambda found: found.fun).x
    return best
