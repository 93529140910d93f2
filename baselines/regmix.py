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
prior, from which the others are drawn; weights are not rounded to multiples of 2e-4 and mixtures
not de-duplicated. The simulated draws follow step 1, where the official notebook draws from
Dirichlet(prior). Trees stop early on the last tenth of the proxies, which they are not fitted to,
where there are 20 or more, by their squared error; the official code stops early on its test set,
by squared or absolute error, whichever stalls first. A bin of LightGBM may hold a single proxy (its
default is 3). A leaf holds a tenth of
the fitted proxies, 2 to 20 of them (LightGBM's default is 20, which splits nothing in a small
swarm). A regression that predicts one loss for all mixtures leaves the prior.
"""

from __future__ import annotations

import importlib.util
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
    Proxied,
    static_at,
    trained_at,
)
from baselines.static import Static
from baselines.swarms import drawn, objective_losses
from harness.rng import key

if TYPE_CHECKING:
    from torch import Tensor

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
    most: Annotated[float, Field(strict=True, gt=1)] = 15.0
    """No mixture holds a domain more than so many times its natural share."""
    least: Annotated[float, Field(strict=True, ge=0, lt=1)] = 2e-4
    """Smaller weights count as 0."""

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Refuse a floor under which every weight of a mixture could fall."""
        if self.least * len(domains) >= 1:
            raise ValueError(f"least: {self.least} of {len(domains)} domains; give less than 1/K")
        if self.regressor == "lightgbm" and importlib.util.find_spec("lightgbm") is None:
            fix = 'install "steelyard[mixing]", or set regressor = "linear"'
            raise ValueError(f"regressor: lightgbm is not installed; {fix}")

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
            replace(spec, mixer=static_at(best_mean(many, predict(many), self.top, prior), domains))
        )


def best_mean(mixtures: np.ndarray, predictions: np.ndarray, top: int, prior: np.ndarray) -> Tensor:
    """Return the mean [K] of the mixtures with the lowest predictions; the prior if all agree."""
    if np.ptp(predictions) <= 1e-12 * np.abs(predictions).max():
        return torch.from_numpy(prior)
    best = np.argsort(predictions, kind="stable")[:top]
    return torch.from_numpy(mixtures[best].mean(0))


def linear(mixtures: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit loss = c . mixture, which holds an intercept, since weights sum to 1."""
    coefficients = np.linalg.lstsq(mixtures, losses, rcond=None)[0]
    return lambda many: many @ coefficients


def lightgbm(mixtures: np.ndarray, losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit gradient-boosted trees; the module says what is not as the official code has it."""
    import lightgbm as lgb

    held = len(losses) // 10 if len(losses) >= 20 else 0
    fitted = len(losses) - held  # the prior's run is the first, and always among them
    settings = {"learning_rate": 0.01, "seed": 42, "num_threads": 1, "deterministic": True}
    settings |= {"objective": "regression", "metric": "l2", "verbosity": -1}
    settings |= {"min_data_in_leaf": min(20, max(2, fitted // 10)), "min_data_in_bin": 1}
    train = lgb.Dataset(mixtures[:fitted], losses[:fitted], params=settings)
    watched = {}
    if held:
        valid = lgb.Dataset(mixtures[fitted:], losses[fitted:], reference=train)
        watched = {"valid_sets": [valid], "callbacks": [lgb.early_stopping(3, verbose=False)]}
    return lgb.train(settings, train, num_boost_round=1000, **watched).predict


REGRESSORS: dict[str, Regressor] = {"linear": linear, "lightgbm": lightgbm}
