"""Factors and scores as kronfluence makes them (arXiv:2308.03296): the reference, driven in stages.

It is given a copy of the model, rows one by one, and a folder that goes away; each stage of its fit
is a public call whose result is looked at before the next. Its loss of a row is the sum over
counted targets. The price of standing beside it: tensors pass through files, and its loader draws
from the global generator, which is put back. `kronfluence` is handed in by the one file that
imports it, harness/influence/ekfac.py, as a package with `factor.eigen` and `utils.save` loaded.
"""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from harness.api import Batch
from harness.influence.along_queries import FIELDS, from_state
from harness.influence.conv1d import linear_copy
from harness.influence.factor_health import decomposed
from harness.influence.finite import refuse_non_finite
from harness.influence.fisher import Pool, keys, summed_losses
from harness.influence.fisher_by_hooks import Advance, check_covariances, unwatched
from harness.influence.preconditioner import ROTATED, absolute, spectrum

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import State, View
    from harness.influence.ekfac import Ekfac
    from harness.influence.selection import Use

NAME = "factors"  # kronfluence's name of a folder
# Our names of a decomposition's parts, and kronfluence's.
EIGEN = {
    "A_vec": "activation_eigenvectors",
    "A_val": "activation_eigenvalues",
    "G_vec": "gradient_eigenvectors",
    "G_val": "gradient_eigenvalues",
}


def fit_by_kronfluence(
    kronfluence: Any, view: View, uses: list[Use], pool: Pool, options: Ekfac
) -> State:
    """Fit stage by stage through public calls, and look at each result before the next stage."""
    state: State = {}
    settings, data = _settings(kronfluence, options), _data(kronfluence, pool, options)
    with _analyzer(kronfluence, view, uses, options, pool) as analyzer:
        if options.strategy in ROTATED:
            analyzer.fit_covariance_matrices(**settings, **data)
            found = _covariances(analyzer, uses)
            check_covariances(view, uses, pool, options.chunk_rows, found)
            try:
                analyzer.perform_eigendecomposition(**settings)
                eigen = _named(analyzer.load_eigendecomposition(NAME))
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # the ladder has more to try
                eigen = {}
            state = decomposed(found, eigen)
            _write_eigen(kronfluence, analyzer, state)  # repaired or as it was
        if options.strategy != "kfac":
            analyzer.fit_lambda_matrices(**settings, **data)
            sums = analyzer.load_lambda_matrices(NAME)
            for module, total in sums["lambda_matrix"].items():
                seen = int(sums["num_lambda_processed"][module])
                state[f"lambda:{module}"] = total.float() / seen
    return state


def covariance_sums_by_kronfluence(
    kronfluence: Any,
    view: View,
    uses: list[Use],
    pool: Pool,
    options: Ekfac,
    workers: int = 0,
    advance: Advance = unwatched,
) -> tuple[State, int]:
    """Return what `fisher_by_hooks.covariance_sums` returns, by the public call of that stage."""
    with _analyzer(kronfluence, view, uses, options, pool, advance) as analyzer:
        analyzer.fit_covariance_matrices(
            **_settings(kronfluence, options), **_data(kronfluence, pool, options, workers)
        )
        loaded = analyzer.load_covariance_matrices(NAME)
    sums, counts = {}, set()
    for use in uses:
        for side, theirs in (("A", "activation"), ("G", "gradient")):
            sums[f"{side}:{use.name}"] = loaded[f"{theirs}_covariance"][use.name]
            counts.add(int(loaded[f"num_{theirs}_covariance_processed"][use.name]))
    (tokens,) = counts  # both sides of every module see the same ones
    return sums, tokens


def second_moment_sums_by_kronfluence(
    kronfluence: Any,
    view: View,
    uses: list[Use],
    pool: Pool,
    vectors: State | None,
    options: Ekfac,
    workers: int = 0,
    advance: Advance = unwatched,
) -> State:
    """Return what `fisher_by_hooks.second_moment_sums` returns, by the public call of that stage.

    `vectors` hold the eigendecompositions of these modules, None for the diagonal.
    """
    with _analyzer(kronfluence, view, uses, options, pool, advance) as analyzer:
        if vectors is not None:
            _write_eigen(kronfluence, analyzer, vectors)
        analyzer.fit_lambda_matrices(
            **_settings(kronfluence, options), **_data(kronfluence, pool, options, workers)
        )
        loaded = analyzer.load_lambda_matrices(NAME)["lambda_matrix"]
    return {f"lambda:{use.name}": loaded[use.name].float() for use in uses}


def score_by_kronfluence(
    kronfluence: Any, view: View, uses: list[Use], prepared: State, rows: Batch, options: Ekfac
) -> Tensor:
    """Return [N, Q] by the pairwise path, rows traversed once; the damping is in the factors."""
    query, weights = from_state(prepared, "query"), prepared["weights"]
    batch = min(options.chunk_rows, len(query.rows))
    arguments = kronfluence.ScoreArguments(
        damping_factor=0.0,
        query_gradient_accumulation_steps=ceil(len(query.rows) / batch),
        aggregate_query_gradients=options.queries != "each",
        amp_dtype=torch.bfloat16 if options.precision == "bfloat16" else None,
    )
    with _analyzer(kronfluence, view, uses, options, None) as analyzer:
        _write_factors(kronfluence, analyzer, uses, prepared, options)
        analyzer.compute_pairwise_scores(
            scores_name=NAME,
            factors_name=NAME,
            query_dataset=_Rows(query, None, weights),
            train_dataset=_Rows(rows, None),
            per_device_query_batch_size=batch,
            per_device_train_batch_size=options.chunk_rows,
            score_args=arguments,
        )
        total: Tensor = analyzer.load_pairwise_scores(NAME)["all_modules"].mT.double().cpu()
    refuse_non_finite(view, rows, "kronfluence's scores", total)
    targets = rows.mask.sum(1).clamp(min=1).double().cpu()[:, None]
    return total if options.reduction == "sum" else total / targets


class _Rows:
    """Rows as kronfluence's loader reads them."""

    def __init__(self, rows: Batch, live: Tensor | None, weights: Tensor | None = None) -> None:
        self.rows, self.first = rows, keys(rows)
        self.live = rows.mask if live is None else live
        self.weights = torch.ones(len(rows.rows)) if weights is None else weights.float()

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {name: getattr(self.rows, name)[index] for name in FIELDS}
        extra = {"first": self.first, "live": self.live, "weight": self.weights}
        return {**row, **{name: value[index] for name, value in extra.items()}}


def _settings(kronfluence: Any, options: Ekfac) -> dict[str, Any]:
    return {"factors_name": NAME, "factor_args": _factor_arguments(kronfluence, options)}


def _data(kronfluence: Any, pool: Pool, options: Ekfac, workers: int = 0) -> dict[str, Any]:
    rows, live = pool.rows, pool.live
    if workers:  # other processes hand over what lies in main memory
        rows = Batch(*(getattr(rows, name).cpu() for name in FIELDS))
        live = None if live is None else live.cpu()
    loader = kronfluence.utils.dataset.DataLoaderKwargs(num_workers=workers)
    return {
        "dataset": _Rows(rows, live),
        "per_device_batch_size": options.chunk_rows,
        "dataloader_kwargs": loader,
    }


def _task(
    kronfluence: Any, view: View, names: list[str], pool: Pool | None, advance: Advance
) -> Any:
    """Return what kronfluence asks of a task; a row's loss is the sum over its counted targets."""

    batches = count()

    class RowTask(kronfluence.Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            rows = Batch(*(batch[name] for name in FIELDS))
            first = batch["first"] if sample else None
            losses = summed_losses(model, rows, first, pool.key if pool else 0)
            refuse_non_finite(view, rows, f"the loss, batch {next(batches)}", losses.detach())
            advance(len(rows.rows))
            return losses.sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            rows = Batch(*(batch[name] for name in FIELDS))
            losses = summed_losses(model, rows, None, 0) / rows.mask.sum(1).clamp(min=1)
            total: Tensor = (losses * batch["weight"]).sum()
            return total

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> Tensor | None:
            live: Tensor = batch["live"]
            return live if pool is not None and pool.live is not None else None

    return RowTask()


@contextmanager
def _analyzer(
    kronfluence: Any,
    view: View,
    uses: list[Use],
    options: Ekfac,
    pool: Pool | None,
    advance: Advance = unwatched,
) -> Iterator[Any]:
    """Yield kronfluence's analyzer of a copy of the model, in a folder that goes away.

    Its loader draws from the global generator, and its code warns about itself.
    """
    task = _task(kronfluence, view, [use.name for use in uses], pool, advance)
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
        _collected_quickly(),
    ):
        warnings.filterwarnings("ignore", category=FutureWarning, module="kronfluence")
        model = kronfluence.prepare_model(linear_copy(view.model, uses), task)
        yield kronfluence.Analyzer(
            analysis_name="ekfac",
            model=model,
            task=task,
            cpu=next(model.parameters()).device.type == "cpu",
            disable_tqdm=True,
            output_dir=folder,
        )


@contextmanager
def _collected_quickly() -> Iterator[None]:
    """Keep what is alive out of the garbage collections that kronfluence runs at every stage.

    Each looks at every object of every module imported: most of the time of a small fit.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def _factor_arguments(kronfluence: Any, options: Ekfac) -> Any:
    dtype = getattr(torch, options.covariance_dtype)
    return kronfluence.FactorArguments(
        strategy=options.strategy,
        use_empirical_fisher=options.labels == "empirical",
        amp_dtype=torch.bfloat16 if options.precision == "bfloat16" else None,
        covariance_max_examples=None,
        lambda_max_examples=None,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
    )


def _covariances(analyzer: Any, uses: list[Use]) -> State:
    sums, found = analyzer.load_covariance_matrices(NAME), {}
    for use in uses:
        for side, theirs in (("A", "activation"), ("G", "gradient")):
            total = sums[f"{theirs}_covariance"][use.name].double()
            seen = int(sums[f"num_{theirs}_covariance_processed"][use.name])
            found[f"{side}:{use.name}"] = total / seen
    return found


def _named(loaded: dict[str, dict[str, Tensor]]) -> State:
    return {
        f"{ours}:{module}": tensor
        for ours, theirs in EIGEN.items()
        for module, tensor in loaded[theirs].items()
    }


def _write_eigen(kronfluence: Any, analyzer: Any, state: State) -> None:
    parts = {
        theirs: {
            name.partition(":")[2]: tensor.contiguous()
            for name, tensor in state.items()
            if name.startswith(f"{ours}:")
        }
        for ours, theirs in EIGEN.items()
    }
    folder = analyzer.factors_output_dir(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    kronfluence.factor.eigen.save_eigendecomposition(output_dir=folder, factors=parts)


def _write_factors(
    kronfluence: Any, analyzer: Any, uses: list[Use], factors: State, options: Ekfac
) -> None:
    """Write damped factors as kronfluence would; kfac is ekfac with its own eigenvalues."""
    folder = analyzer.factors_output_dir(NAME)
    form = "ekfac" if options.strategy in ROTATED else options.strategy
    arguments = kronfluence.FactorArguments(strategy=form).to_dict()
    kronfluence.utils.save.save_json(arguments, folder / "factor_arguments.json")
    if options.strategy in ROTATED:
        _write_eigen(kronfluence, analyzer, factors)
    if options.strategy == "identity":
        return
    damped, one = {}, {}
    for module in (use.name for use in uses):
        values = spectrum(factors, module, options.strategy)
        damped[module] = values + absolute(values, options.damping, options.damping_unit)
        one[module] = torch.ones(1, dtype=torch.int64)
    parts = {"lambda_matrix": damped, "num_lambda_processed": one}
    kronfluence.factor.eigen.save_lambda_matrices(output_dir=folder, factors=parts)
