"""RegMix: a regression from mixtures to losses, over many small runs, and the best mixture of it.

Liu et al., "RegMix: Data Mixture as Regression for Language Model Pre-training", ICLR 2025,
arXiv:2407.01492, section 3; details follow the official code, sail-sg/regmix at b004d3a
(mixture_config/synthesize_mixture.py, regression_fitting/).

1. Draw mixtures from Dirichlet(s q), q ~ prior^.5 and s one of 15 values from .1 to 5, evenly
   spaced on a logarithmic scale; reject those above 15 times the prior; weights below `least`
   become 0.
2. Train a small proxy on each; measure the objective's loss on the probe set.
3. Fit a regressor of the loss on the mixture: LightGBM (1,000 trees, rate .01), or a linear one.
4. Predict it for `simulated` more draws and train the main model on the mean of the best `top`.

Needs: `mixtures` proxy runs, one of them at the prior. Cost: those runs. Defaults: 64 mixtures (the
paper: 512, of models a thousand times smaller than the main one), 100,000 simulated, the best 128.
Deviations: the objective is the run's target (the paper's: Pile-CC). The first mixture is the
prior, from which the others are drawn. Trees stop early on a tenth of the proxies that they are not
fitted to, where there are 20 proxies or more; the official code stops early on its test set. With
fewer than 40 proxies a leaf may hold two of them rather than LightGBM's default of twenty, and the
linear regressor is the sounder choice. All draws are from the same Dirichlet family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from harness.rng import key

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = np.logspace(-1, np.log10(5), 15)

Regressor = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class RegMix(Proxied):
    """A swarm of proxy runs, a regression, then a static main run at the mixture it likes best."""

    mixtures: Annotated[int, Field(strict=True, ge=4)] = 64
    """Proxy runs."""
    regressor: Literal["lightgbm", "linear"] = "lightgbm"
    """What predicts the loss of a mixture."""
    objective: Objective = "target"
    """Whose probe loss is predicted."""
    simulated: Count = 100_000
    """Mixtures whose loss is predicted."""
    top: Count = 128
    """Best predictions that are averaged."""
    most: Positive = 15.0
    """No mixture holds a domain more than so many times its natural share."""
    least: Annotated[float, Field(strict=True, ge=0, lt=1)] = 2e-4
    """Smaller weights count as 0."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train the swarm, regress, then train the main run."""
        small = self.small(spec)
        (first,) = trained_at(small, run, [Static(weights="natural")], "prior")
        prior, domains = first.weights[0].numpy(), first.domains
        keyed = np.random.default_rng(key(spec.data_seed, "mixtures"))
        draws = drawn(prior, self.mixtures - 1, self.most, self.least, keyed)
        tried = [static_at(torch.from_numpy(d), domains) for d in draws]
        found = [first, *trained_at(small, run, tried, "mixture")]
        losses = objective_losses(found, self.objective, spec.targets)
        predict = REGRESSORS[self.regressor](np.stack([prior, *draws]), losses)
        many = drawn(prior, self.simulated, self.most, self.least, keyed)
        return run(
            replace(spec, mixer=static_at(best_mean(many, predict(many), self.top), domains))
        )


def objective_losses(
    found: list[Any], objective: Objective, targets: dict[str, float]
) -> np.ndarray:
    """Return the objective's probe loss [n] of each run."""
    wanted = objective_weights(objective, found[0].domains, targets)
    return np.array([sum(w * one.probe_losses[d] for d, w in wanted.items()) for one in found])


def drawn(
    prior: np.ndarray, number: int, most: float, least: float, keyed: np.random.Generator
) -> np.ndarray:
    """Return mixtures [number, K] of step 1."""
    base, kept = prior**0.5 / (prior**0.5).sum(), np.empty((0, len(prior)))
    caps = np.minimum(np.multiply(most, prior, where=prior > 0, out=np.zeros_like(prior)), 1.0)
    while len(kept) < number:
        strengths = keyed.choice(STRENGTHS, 2 * number + 16)
        # a Dirichlet draw is a normalised row of gamma draws
        gammas = keyed.standard_gamma(strengths[:, None] * base) + 1e-300
        found = gammas / gammas.sum(1, keepdims=True)
        found = found[(found <= caps + 1e-9).all(1)]
        found = np.where(found < least, 0.0, found)
        kept = np.concatenate([kept, found / found.sum(1, keepdims=True)])
    return kept[:number]


def best_mean(mixtures: np.ndarray, predictions: np.ndarray, top: int) -> Tensor:
    """Return the mean [K] of the mixtures with the lowest predictions."""
    best = np.argsort(predictions, kind="stable")[:top]
    return torch.from_numpy(mixtures[best].mean(0))


def linear(mixtures: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit loss = c . mixture, which holds an intercept, since weights sum to 1."""
    coefficients = np.linalg.lstsq(mixtures, losses, rcond=None)[0]
    return lambda many: many @ coefficients


def lightgbm(mixtures: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit gradient-boosted trees with the official settings; what differs is in the docstring."""
    import lightgbm as lgb

    settings = {"learning_rate": 0.01, "seed": 42, "num_threads": 1, "deterministic": True}
    settings |= {"objective": "regression", "metric": "l2", "verbosity": -1}
    if len(losses) < 40:
        settings |= {"min_data_in_leaf": 2, "min_data_in_bin": 1}
    held = len(losses) // 10 if len(losses) >= 20 else 0
    train = lgb.Dataset(mixtures[held:], losses[held:], params=settings)
    watched = {}
    if held:
        valid = lgb.Dataset(mixtures[:held], losses[:held], reference=train)
        watched = {"valid_sets": [valid], "callbacks": [lgb.early_stopping(3, verbose=False)]}
    return lgb.train(settings, train, num_boost_round=1000, **watched).predict


REGRESSORS: dict[str, Regressor] = {"linear": linear, "lightgbm": lightgbm}
