"""Data mixing laws: losses as exponentials of the mixture, and the mixture that minimises them.

Ye et al., "Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance",
ICLR 2025, arXiv:2403.16952, Eq. 7: the loss on domain i of a model trained at mixture p is

  L_i(p) = c_i + k_i exp(sum_j t_ij p_j)

fitted to small runs (Huber loss .01, L-BFGS from many starts). The mixture is then found exactly
(Olmix's proposer, arXiv:2602.12237): with z the objective's weights of domains,

  min_p sum_i z_i L_i(p) + kl KL(p | prior)    sum p = 1, 0 <= p_k <= repetitions n_k / n

with n_k the rows of domain k and n the rows that the main run draws: convex, solved by SLSQP from
several starts.

Needs: `mixtures` proxy runs, one at the prior and one uniform. Cost: those runs. Defaults: 32
mixtures, 20 starts of a fit, kl .01, at most 4 passes over a domain. Deviations: the paper nests
the law with laws of steps and size; what proxies say is taken as it is. Mixtures are Dirichlet
draws around the prior, as RegMix's; the paper takes a grid. With `repetitions` unset and `kl = 0`
Eq. 7 alone decides, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import (
    CONFIG,
    Count,
    Objective,
    Positive,
    Proxied,
    objective_weights,
    static_at,
    trained_at,
)
from baselines.static import Static
from baselines.swarms import drawn
from harness.rng import key

HUBER = 0.01


class Law(NamedTuple):
    """c + exp(log_k + t . p), with t [K]."""

    c: float
    log_k: float
    t: np.ndarray

    def __call__(self, mixture: np.ndarray) -> np.ndarray:
        """Return the loss at a mixture [K], or at several [n, K]."""
        return self.c + np.exp(self.log_k + mixture @ self.t)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class MixingLaws(Proxied):
    """A swarm of proxy runs, a law for each loss, then a static main run at the laws' minimum."""

    mixtures: Annotated[int, Field(strict=True, ge=4)] = 32
    """Proxy runs."""
    objective: Objective = "target"
    """Whose probe losses are minimised."""
    starts: Count = 20
    """Starts of each fit."""
    kl: Annotated[float, Field(strict=True, ge=0)] = 0.01
    """Pull towards natural proportions, in nats of loss per nat of divergence."""
    repetitions: Positive | None = 4.0
    """Passes over a domain that the main run may make; unset for no cap."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train the swarm, fit the laws, then train the main run at their minimum."""
        small = self.small(spec)
        fixed = trained_at(small, run, [Static(weights="natural"), Static()], "fixed mixture")
        prior, uniform = (one.weights[0].numpy() for one in fixed)
        domains = fixed[0].domains
        rows = np.array([fixed[0].train_rows[d] for d in domains])
        most = np.inf if self.repetitions is None else self.repetitions
        caps = np.minimum(most * rows / (spec.num_steps * spec.batch.rows), 1.0)
        if caps.sum() < 1:  # before the swarm is trained
            raise ValueError(f"repetitions: caps {caps.round(3)} leave no mixture; raise it")
        keyed = np.random.default_rng(key(spec.data_seed, "mixtures"))
        draws = drawn(prior, self.mixtures - 2, np.inf, 0.0, keyed)
        tried = [static_at(torch.from_numpy(d), domains) for d in draws]
        found = [*fixed, *trained_at(small, run, tried, "mixture")]
        mixtures, laws = np.stack([prior, uniform, *draws]), []
        for name, weight in objective_weights(self.objective, domains, spec.targets).items():
            losses = np.array([one.probe_losses[name] for one in found])
            laws.append((weight, fitted(mixtures, losses, self.starts, keyed)))
        best = torch.from_numpy(minimum(laws, prior, caps, self.kl))
        return run(replace(spec, mixer=static_at(best, domains)))


def fitted(
    mixtures: np.ndarray, losses: np.ndarray, starts: int, keyed: np.random.Generator
) -> Law:
    """Fit one law to losses [n] at mixtures [n, K]."""
    from scipy.optimize import minimize

    num_domains, low = mixtures.shape[1], float(losses.min())

    def value_and_gradient(law: np.ndarray) -> tuple[float, np.ndarray]:
        c, rest = law[0], np.exp(np.minimum(law[1] + mixtures @ law[2:], 50.0))
        error = c + rest - losses
        slope = np.clip(error, -HUBER, HUBER)
        value = np.sum(slope * (error - 0.5 * slope))
        inner = slope * rest
        return float(value), np.concatenate([[slope.sum(), inner.sum()], inner @ mixtures])

    bounds = [(0.0, low)] + [(None, None)] * (num_domains + 1)
    tries = []
    for _ in range(starts):
        c = low * keyed.uniform(0.2, 0.99)
        t = keyed.uniform(-2, 0, num_domains)
        start = np.concatenate([[c, np.log(max(float(losses.mean()) - c, 1e-6)) - t.mean()], t])
        how = {"jac": True, "bounds": bounds, "options": {"maxiter": 2000, "ftol": 1e-14}}
        tries.append(minimize(value_and_gradient, start, method="L-BFGS-B", **how))
    best = min(tries, key=lambda one: one.fun).x
    return Law(float(best[0]), float(best[1]), best[2:])


def minimum(
    laws: list[tuple[float, Law]], prior: np.ndarray, caps: np.ndarray, kl: float
) -> np.ndarray:
    """Return the mixture [K] that minimises the weighted laws under caps [K] of sum 1 or more."""
    from scipy.optimize import minimize

    def objective(p: np.ndarray) -> float:
        p = np.maximum(p, 1e-12)
        divergence = float(np.sum(p * np.log(p / np.maximum(prior, 1e-12))))
        return sum(weight * float(law(p)) for weight, law in laws) + kl * divergence

    room = caps / caps.sum()
    starts = [prior, np.full_like(prior, 1 / len(prior)), *(0.2 * room + 0.8 * np.eye(len(prior)))]
    how: dict[str, Any] = {"constraints": [{"type": "eq", "fun": lambda p: p.sum() - 1}]}
    how |= {"bounds": [(0.0, cap) for cap in caps], "options": {"maxiter": 500, "ftol": 1e-12}}
    tries = [minimize(objective, np.minimum(s, caps), method="SLSQP", **how) for s in starts]
    best = min(tries, key=lambda one: (abs(one.x.sum() - 1) > 1e-6, one.fun))
    if abs(best.x.sum() - 1) > 1e-6:
        raise ValueError(f"no mixture under the caps {caps.round(3)} was found: {best.message}")
    mixture = np.clip(best.x, 0.0, caps)
    return np.asarray(mixture / mixture.sum())
