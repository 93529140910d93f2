"""What a distilled encoder is worth: its ranks beside those of gradients, and beside cheap ones.

Agreement is Spearman's correlation with the cosines of gradients, on queries and rows that the
encoder was not trained on: per query (the mean over queries) and aggregated (of the means over
queries, the form that a domain's weight depends on). A method's figure is always given beside

    untrained        the same encoder before distillation
    bag of words     TF-IDF cosine of token ids, which knows what two rows share and nothing else
    teacher          the gradients that were distilled: no encoder of them can be expected above it
    full gradient    cosines of the model's own weight gradients, without adapter and sketch

Truth has an adapter and a sketch of its own (rank 16, 65536 dimensions), so that the encoder is not
paid for what is an accident of its teacher's. Each seed has its own adapter, split and encoder, and
nothing is chosen on the rows that are evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.influence.fidelity import spearman
from harness.influence.gradients import GradCos
from harness.influence.influcoder.agreement import agreement, split
from harness.influence.influcoder.lora_gradients import Adapter, adapted, row_features
from harness.influence.influcoder.words import bag_of_words
from harness.rng import generator

if TYPE_CHECKING:
    from harness.api import Batch, View
    from harness.influence.influcoder.influcoder import Influcoder

FIDELITY_ROWS = 8  # gradients kept whole, as in the paper's code
TRUTH_RANK, TRUTH_DIMS = 16, 65536
TRUTH_SEED = 10**6  # added to a seed: another adapter and another sketch than the teacher's


class Result(NamedTuple):
    """One method on one set of rows, with one seed."""

    seed: int
    where: str
    method: str
    per_query: float
    aggregated: float


class Summary(NamedTuple):
    """A method over seeds: mean and sample standard deviation."""

    where: str
    method: str
    seeds: int
    per_query: tuple[float, float]
    aggregated: tuple[float, float]


class Fidelity(NamedTuple):
    """Cosines of sketched gradients beside those of the same gradients kept whole."""

    mean_error: float
    max_error: float  # above 0.15, the paper's code warns
    spearman: float


def projection_fidelity(view: View, adapter: Adapter, rows: Batch, chunk_rows: int = 0) -> Fidelity:
    """Compare the cosines of a few rows' gradients, sketched and whole."""
    rows = rows.select(slice(0, FIDELITY_ROWS))
    on = adapted(view.model, adapter)
    pairs = torch.triu_indices(len(rows.rows), len(rows.rows), 1)
    found = []
    for kind in (adapter, replace(adapter, dims=0)):
        features = row_features(view, kind, on, rows, chunk_rows).double().cpu()
        found.append((features @ features.T)[pairs[0], pairs[1]])
    error = (found[0] - found[1]).abs()
    return Fidelity(float(error.mean()), float(error.max()), spearman(*found))


def evaluate(
    view: View,
    estimators: Mapping[str, Influcoder],
    pool: Batch,
    queries: Batch,
    elsewhere: Mapping[str, tuple[Batch, Batch]],
    seeds: Sequence[int] = (0, 1, 2),
    held: float = 1 / 3,
) -> list[Result]:
    """Fit each estimator for each seed and compare it with gradients, beside its baselines.

    `pool` and `queries` are split anew for each seed, `held` of both for the evaluation;
    `elsewhere` are (rows, queries) of other domains, by name. The estimators share adapter options,
    so that one has the others' targets.
    """
    results = []
    for seed in seeds:
        made = {name: replace(one, seed=seed) for name, one in estimators.items()}
        (held_q, q), (held_p, p) = (
            split(len(rows.rows), held, generator(seed, "influcoder evaluation", name))
            for name, rows in (("queries", queries), ("pool", pool))
        )
        train = pool.select(p), queries.select(q)
        places = {"in distribution": (pool.select(held_p), queries.select(held_q)), **elsewhere}
        results += _of_seed(view, made, train, places)
    return results


def _of_seed(
    view: View,
    estimators: Mapping[str, Influcoder],
    train: tuple[Batch, Batch],
    places: Mapping[str, tuple[Batch, Batch]],
) -> list[Result]:
    teacher = next(iter(estimators.values()))
    targets = teacher.targets(view, *train)
    fitted = {}
    for name, one in estimators.items():
        fitted[name] = one, one.learn(view, *train, targets)
        fitted[f"{name}, untrained"] = one, one.learn(view, *train, targets, train=False)
    judge = replace(teacher, seed=teacher.seed + TRUTH_SEED, rank=TRUTH_RANK, dims=TRUTH_DIMS)
    full = GradCos(preconditioner="none", biases=False, modules=teacher.modules)
    results = []
    for where, (rows, queries) in places.items():
        truth = judge.targets(view, rows, queries)
        found = {name: one.predicted(view, s, rows, queries) for name, (one, s) in fitted.items()}
        found["bag of words"] = bag_of_words(train, rows, queries)
        found["teacher"] = teacher.targets(view, rows, queries)
        found["full gradient"] = full.score(view, full.prepare(view, {}, queries), rows).total.T
        results += [
            Result(teacher.seed, where, name, *agreement(scores.cpu(), truth.cpu()))
            for name, scores in found.items()
        ]
    return results


def summarised(results: Sequence[Result]) -> list[Summary]:
    """Return mean and spread over seeds, in the order in which methods came."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.where, result.method), []).append(result)
    return [
        Summary(
            where,
            method,
            len(group),
            _mean_and_spread([r.per_query for r in group]),
            _mean_and_spread([r.aggregated for r in group]),
        )
        for (where, method), group in groups.items()
    ]


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    return float(numbers.mean()), float(numbers.std()) if len(values) > 1 else 0.0
