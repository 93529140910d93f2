"""Fit and score together, beside plain kronfluence driven by hand on the same job.

Ours is what `steelyard attribute` does: stages that are checked and written as they go, the factors
read back, then scores. Theirs is fit_all_factors and compute_pairwise_scores on a copy of the model
whose Conv1D layers are linear, with all queries held in one traversal of the rows, the best it can
do. Labels are the rows' own, so that both have the same Fisher. Jobs take turns in one process.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from harness.api import Batch
from harness.attribution import fit
from harness.attribution.fit_spec import Factors
from harness.attribution.opened import Opened, weights_id
from harness.attribution.places import Places
from harness.attribution.rows import Pool
from harness.influence.conv1d import linear_copy
from harness.influence.selection import choose
from harness.view import RunView
from tests.bench.ekfac import ratio, spread, turns
from tests.bench.timing import Row
from tests.bench.worlds import measured


def fit_and_score(
    out: Path, repeats: int, threads: int, num_rows: int = 96, num_queries: int = 16
) -> list[Row]:
    """Fit on rows and score them all for each query, from nothing, with either fitter."""
    view = measured(out, "gpt2", threads=threads).view
    opened, pool = _opened(view, num_rows)
    rows, query = pool.batch(slice(None)), spread(view.probes(num_queries), num_queries)
    found: dict[str, Tensor] = {}

    def ours(fitter: Any) -> Callable[[], None]:
        def job() -> None:
            found[fitter] = by_pipeline(opened, pool, query, fitter, out / "attribution-bench")

        return job

    def theirs() -> None:
        names = [use.name for use in choose(view.model, ("mlp",))]
        with tempfile.TemporaryDirectory(dir=out) as folder:
            found["by hand"] = by_hand(view, names, rows, rows, query, Path(folder))

    jobs = {"hooks": ours("hooks"), "by hand": theirs, "kronfluence": ours("kronfluence")}
    times = turns(jobs, repeats)
    job = f"gpt2, ekfac, MLP, fit and {num_queries} queries x {num_rows} rows"
    table = []
    for fitter in ("hooks", "kronfluence"):
        rank = stats.spearmanr(found[fitter].flatten(), found["by hand"].flatten())[0]
        what = f"{job}: ours ({fitter}) / kronfluence by hand"
        table.append(ratio(times[fitter], times["by hand"], "<= 1.05", what))
        table.append((f"Spearman of both ({fitter})", f"{rank:.6f}", "", ">= 0.999"))
    return table


def by_pipeline(opened: Opened, pool: Pool, query: Batch, fitter: Any, folder: Path) -> Tensor:
    """Return our scores [N, Q] of a fit from nothing."""
    factors = Factors(labels="empirical", fitter=fitter)
    places = Places(folder, "bench")
    shutil.rmtree(folder, ignore_errors=True)
    fit.fit(opened, pool, factors, places, say=lambda _: None)
    state = fit.open_factors(opened, pool, factors, places)
    estimator, view = fit.estimator(opened, pool, factors, places), opened.view
    prepared = estimator.prepare(view, state, query)
    # a row's mean loss, while kronfluence's is a sum
    total = estimator.score(view, prepared, pool.batch(slice(None))).total
    return total * pool.batch(slice(None)).mask.sum(1)[:, None]


def by_hand(
    view: RunView,
    names: list[str],
    pool: Batch,
    rows: Batch,
    query: Batch,
    folder: Path,
    batch: int = 16,
) -> Tensor:
    """Return kronfluence's own scores [N, Q] of a fit from nothing; a query's loss is its mean."""
    import kronfluence

    class Own(kronfluence.Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return losses(batch, model).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return (losses(batch, model).sum(1) / batch["mask"].sum(1)).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> Tensor:
            return batch["live"]

    def losses(batch: Any, model: nn.Module) -> Tensor:
        logits = model(input_ids=batch["inputs"], use_cache=False).logits
        found = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
        return found.view_as(batch["mask"]) * batch["mask"]

    def data(batch: Batch) -> Any:
        live = batch.mask.flip(1).cumsum(1).flip(1) > 0  # tokens that a target can see
        parts = {"inputs": batch.inputs, "targets": batch.targets, "mask": batch.mask, "live": live}
        return [{k: v[i] for k, v in parts.items()} for i in range(len(batch.rows))]

    uses, task = [use for use in choose(view.model) if use.name in names], Own()
    model = kronfluence.prepare_model(linear_copy(view.model, uses), task)
    analyzer = kronfluence.Analyzer(
        "own", model, task, cpu=True, disable_tqdm=True, output_dir=str(folder)
    )
    arguments = kronfluence.FactorArguments(strategy="ekfac", use_empirical_fisher=True)
    steps = -(-len(query.rows) // batch)
    scoring = kronfluence.ScoreArguments(
        damping_factor=None, query_gradient_accumulation_steps=steps
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=FutureWarning)
        analyzer.fit_all_factors("f", data(pool), per_device_batch_size=batch,
                                 factor_args=arguments)  # fmt: skip
        analyzer.compute_pairwise_scores(
            "s", "f", data(query), data(rows), per_device_query_batch_size=batch,
            per_device_train_batch_size=batch, score_args=scoring,
        )  # fmt: skip
    found: Tensor = analyzer.load_pairwise_scores("s")["all_modules"].T.double()
    gc.collect()
    return found


def _opened(view: RunView, num_rows: int) -> tuple[Opened, Pool]:
    """Return a run in progress as a finished one is seen, and some of its train rows."""
    shelf, names = view.stream.train, view.domains
    each = num_rows // len(names)
    picks = tuple((name, row) for name in names for row in range(each))
    pool = Pool(shelf, names, picks, SimpleNamespace(), "cpu", "bench")  # type: ignore[arg-type]
    store: Any = None
    return Opened(Path(), "bench", "", weights_id(view.model), view, store), pool
