"""Mixtures for a swarm of proxy runs, and what is read off it."""

from __future__ import annotations

from typing import Any

import numpy as np

from baselines.proxies import Objective, objective_weights

STRENGTHS = np.logspace(-1, np.log10(5), 15)


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
    for _ in range(1000):
        if len(kept) >= number:
            return kept[:number]
        strengths = keyed.choice(STRENGTHS, 2 * number + 16)
        # a Dirichlet draw is a normalised row of gamma draws
        gammas = keyed.standard_gamma(strengths[:, None] * base) + 1e-300
        found = gammas / gammas.sum(1, keepdims=True)
        found = found[(found <= caps + 1e-9).all(1)]
        found = np.where(found < least, 0.0, found)
        kept = np.concatenate([kept, found / found.sum(1, keepdims=True)])
    raise ValueError(f"most: {most} times the prior {prior.round(3)} leaves no mixture; raise it")
