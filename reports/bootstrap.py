"""Resample seeds and documents: an interval that also asks for other held-out text.

The t interval generalizes over seeds and takes the held-out text as it is. This one draws seeds
and, for each draw, documents, the same ones for both arms: tokens and rows of a document are alike
and are never drawn apart. All seeds of a draw share its documents, because they were evaluated on
the same ones; documents drawn anew within each seed would average away what a document does in all.
It is a percentile interval, and with few seeds too short: `python -m reports.coverage` measures by
how much. That is why it stands beside the t interval and gives no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import measures
from reports.load import Evidence

RESAMPLES = 2000
Combine = Callable[[np.ndarray], np.ndarray]


class Losses(NamedTuple):
    """One domain's held-out text under two arms: D documents at S common seeds."""

    arm: np.ndarray
    """Nats of each document at each seed, [S, D]."""
    baseline: np.ndarray
    num_bytes: np.ndarray
    """Bytes of each document's evaluated targets, [D]."""


def two_level_interval(
    domains: Sequence[Losses], combine: Combine, resamples: int = RESAMPLES, key: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference arm - baseline, in bits per byte.

    `combine` turns bits per byte by domain, [..., K], into the metric, [...]. Draws are keyed, so
    the same losses give the same interval. NaN for fewer than two seeds.
    """
    num_seeds = len(domains[0].arm)
    if num_seeds < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(key)
    seeds = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, resamples)  # [B, S]
    arms, baselines = [], []
    for losses in domains:
        size = len(losses.num_bytes)
        drawn = generator.multinomial(size, [1 / size] * size, resamples)  # [B, D]
        num_bits = (drawn @ losses.num_bytes)[:, None] * math.log(2)
        arms.append(drawn @ losses.arm.T / num_bits)  # [B, S]
        baselines.append(drawn @ losses.baseline.T / num_bits)
    difference = combine(np.stack(arms, -1)) - combine(np.stack(baselines, -1))  # [B, S]
    low, high = np.quantile((seeds * difference).sum(1) / num_seeds, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_intervals(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """Return the two-level interval of each arm's difference to the baseline, by label.

    An arm is left out where a run of a common seed has no losses by document: it was made before
    they were kept, and the interval would be about other seeds than the difference.
    """
    names, combine = _metric(evidence)
    runs = measures.main_runs(evidence).set_index(["arm", "seed"])["run_id"]
    tables = _tables(evidence, names)
    baseline, found = evidence.header["baseline"], {}
    for arm in measures.arms(evidence):
        if arm.label == baseline or not {arm.label, baseline} <= set(runs.index.levels[0]):
            continue
        common = sorted(set(runs[arm.label].index) & set(runs[baseline].index))
        ours, theirs = runs[arm.label][common].tolist(), runs[baseline][common].tolist()
        has_all = all({*ours, *theirs} <= set(nats.index) for nats, _ in tables)
        if common and tables and has_all:
            losses = [
                Losses(nats.loc[ours].to_numpy(), nats.loc[theirs].to_numpy(), num_bytes)
                for nats, num_bytes in tables
            ]
            found[arm.label] = two_level_interval(losses, combine)
    return found


def _metric(evidence: Evidence) -> tuple[list[str], Combine]:
    """Return the domains that the primary metric is made of, and how."""
    primary, targets = evidence.header["primary"], evidence.header["targets"]
    if primary == "target":
        weights = np.array(list(targets.values()), dtype=float)
        return list(targets), lambda bits: bits @ weights
    names = measures.trained_domains(evidence)
    if primary == "mean":
        return names, lambda bits: bits.mean(-1)
    return names, lambda bits: bits.max(-1)


def _tables(evidence: Evidence, names: list[str]) -> list[tuple[pd.DataFrame, np.ndarray]]:
    """Return nats by run and document, and bytes by document, of each domain; [] where one lacks.

    Runs that do not have every document that another has are left out.
    """
    frame = evidence.documents[evidence.documents["split"] == "heldout"]
    frame = frame.astype({"run_id": object, "domain": object})
    tables = []
    for name in names:
        own = frame[frame["domain"] == name]
        nats = own.pivot(index="run_id", columns="document", values="nats").dropna()
        num_bytes = own.groupby("document")["num_bytes"].first()
        if nats.empty:
            return []
        tables.append((nats, num_bytes.to_numpy(dtype=float)))
    return tables
