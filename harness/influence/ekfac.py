"""Influence with the curvature of the loss divided out: EKFAC, KFAC, diagonal or none.

    score = <g_i, (F + damping)^-1 g_q>, positive: training on row i lowers query q's loss

kronfluence (arXiv:2308.03296) fits the factors on a copy of the model and is the reference; this is
the only file that imports it. What follows from the factors is ours, because it is cheaper: queries
are preconditioned once, then either each row costs one backward pass whatever the number of queries
("hooks"), or, for one query, one forward pass at parameters moved along its preconditioned gradient
("directional"). kronfluence's own pairwise path stays as a route, to compare with.

A query's loss is the mean over its counted targets, a row's the mean or the sum. kronfluence uses
sums for both: its score over a row's and a query's counted targets is ours. The Fisher is always
that of a row's sum. Left out: Adam's preconditioner, which is another answer to the same question.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Batch, Scores
from harness.influence import fisher_by_hooks as hooks
from harness.influence.along_queries import (
    FIELDS,
    as_state,
    check_rows,
    from_state,
    score_along,
    steps,
)
from harness.influence.conv1d import linear_copy
from harness.influence.factor_health import SIDES, check_covariance, check_lambda, decomposed
from harness.influence.fisher import Labels, Pool, countable, keys, summed_losses
from harness.influence.gradients import GradDot, refuse_non_finite
from harness.influence.preconditioner import (
    ROTATED,
    Strategy,
    Unit,
    absolute,
    health,
    spectrum,
)
from harness.influence.queries import Queries, query_weights
from harness.influence.query_gradients import network_flops, preconditioned_queries
from harness.influence.row_gradients import Precision, Reduction
from harness.influence.selection import Use, choose

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Note, State, View

Route = Literal["auto", "kronfluence", "hooks", "directional"]
Fitter = Literal["kronfluence", "hooks"]
NAME = "factors"  # kronfluence's name of the folder


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Ekfac:
    """Scores with a fitted, damped inverse of the Fisher between the two gradients."""

    kind: Literal["ekfac"] = "ekfac"
    strategy: Strategy = "ekfac"
    """Which approximation of the Fisher; see harness/influence/preconditioner.py."""
    damping: Annotated[float, Field(strict=True, gt=0)] = 0.1
    """Added to the eigenvalues; 0.1 of their mean is what kronfluence's None means."""
    damping_unit: Unit = "relative"
    """A share of the module's mean eigenvalue, or a number."""
    labels: Labels = "sampled"
    """Drawn from the model (true Fisher), or the row's own (empirical Fisher)."""
    modules: tuple[str, ...] = ("linear",)
    """"linear", "mlp", or regular expressions; linear layers alone."""
    last_blocks: Annotated[int, Field(strict=True, ge=0)] = 0
    """Only the last n blocks; 0 keeps all."""
    biases: Annotated[bool, Field(strict=True)] = True
    """Whether the biases of the chosen modules count."""
    queries: Queries = "each"
    """One query per query row, or one of them all: their mean, or by the target's weights."""
    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets."""
    route: Route = "auto"
    """How rows are scored; auto: directional for one query where its step checks out, else hooks."""
    fitter: Fitter = "kronfluence"
    """Who fits the factors: the reference, or our hooks, which find the same ones in less time."""
    precision: Precision = "float32"
    """What the network computes in; factors and products are float32."""
    covariance_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"
    """What covariances are summed in; a float16 sum that overflows is an error."""
    check_rows: Annotated[int, Field(strict=True, gt=0)] = 16
    """Rows of the pool on which a finite difference's step is checked."""
    chunk_rows: Annotated[int, Field(strict=True, gt=0)] = 16
    """Rows per pass; scores do not depend on it."""

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return the factors by module, and the rows that a step is checked on.

        Names: harness/influence/preconditioner.py; `A_rung:M` and `G_rung:M` hold the rung of the
        ladder and the ridge; `fitted` the rows used and the rows skipped for having no target.
        """
        rows = countable(view, pool, self.labels)
        state = check_rows(rows.rows, self.check_rows)
        state["fitted"] = torch.tensor([len(rows.rows.rows), rows.skipped])
        if self.strategy == "identity":
            return state
        uses = self._uses(view)
        network = network_flops(view, uses, rows.rows) * len(rows.rows.rows)
        fit = _fit_by_hooks if self.fitter == "hooks" else _fit_by_kronfluence
        factors = fit(view, uses, rows, self)
        for module in (use.name for use in uses if f"lambda:{use.name}" in factors):
            check_lambda(factors[f"lambda:{module}"], module)
        passes = (self.strategy != "diagonal") + (self.strategy != "kfac")
        view.bill(
            network * passes + _fit_flops(uses, rows, self), passes * rows.rows.targets.numel()
        )
        return {**state, **factors}

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return preconditioned query gradients, `query:P` [Q, L, R] by parameter.

        `eps` [1] is there where rows are to be scored by a finite difference. For kronfluence's
        route the factors and the query rows are handed on.
        """
        weights = query_weights(view, query, self.queries)
        if self.route == "kronfluence":
            return {**fitted, **as_state(query, "query"), "weights": weights.sum(0)}
        found = preconditioned_queries(view, self._uses(view), fitted, query, weights, self)
        if self.route == "hooks" or (self.route == "auto" and len(weights) > 1):
            return found
        return {**found, **steps(view, fitted, found, self.route == "auto")}

    def score(self, view: View, prepared: State, rows: Batch, base: Tensor | None = None) -> Scores:
        """Return influence [N, Q] float64 on the CPU; FloatingPointError names row and module.

        `base` [N] are the rows' mean losses at these very parameters, where they are known: the
        directional route then takes one forward pass per row instead of two.
        """
        if "weights" in prepared:
            total = _score_by_kronfluence(view, self._uses(view), prepared, rows, self)
            route = "kronfluence"
        elif "eps" in prepared:
            total = score_along(view, prepared, rows, base, self.reduction)
            route = "directional"
        else:
            total, route = self._exact().score(view, prepared, rows).total, "hooks"
        return Scores(total, about={**self.about(), "route": route})

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        left_out = ("kind", "chunk_rows", "check_rows")
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in left_out}
        facts["modules"] = " ".join(self.modules)
        return {
            "estimator": self.kind,
            "query_reduction": "mean",
            "fisher": "mean over rows of a row's sum over counted targets",
            "preconditioner": self.strategy,
            "sign": "positive: training on the row lowers the query's loss",
            **facts,
        }

    def health(self, fitted: State) -> dict[str, Any]:
        """Return, by module, spectra, rungs and the damping used, and the rows fitted on."""
        used, skipped = fitted["fitted"].tolist()
        table = health(fitted, self.strategy, self.damping, self.damping_unit)
        return {"rows": used, "skipped_rows": skipped, "modules": table}

    def _uses(self, view: View) -> list[Use]:
        uses = choose(view.model, self.modules, self.last_blocks, self.biases)
        for use in uses:
            if use.kind == "embedding":
                why = f"ekfac has no factors for the embedding {use.name!r} or a head tied to it"
                raise ValueError(f'{why}; choose modules = ["linear"], ["mlp"] or others by name')
        weights = [use.weight for use in uses]
        for use in uses:
            if weights.count(use.weight) > 1:
                raise ValueError(f"ekfac: {use.name!r} shares its weight with another layer")
        return uses

    def _exact(self) -> GradDot:
        return GradDot(
            modules=self.modules,
            last_blocks=self.last_blocks,
            biases=self.biases,
            preconditioner="none",
            precision=self.precision,
            chunk_rows=self.chunk_rows,
            reduction=self.reduction,
        )


def _fit_by_hooks(view: View, uses: list[Use], pool: Pool, options: Ekfac) -> State:
    state: State = {}
    if options.strategy in ROTATED:
        dtype = getattr(torch, options.covariance_dtype)
        found = hooks.covariances(view, uses, pool, options.chunk_rows, dtype, options.precision)
        _check(view, uses, pool, options, found)
        state = decomposed(found, {})
    if options.strategy == "kfac":
        return state
    vectors = state if options.strategy == "ekfac" else None
    moments = hooks.second_moments(view, uses, pool, options.chunk_rows, vectors, options.precision)
    return {**state, **moments}


def _fit_by_kronfluence(view: View, uses: list[Use], pool: Pool, options: Ekfac) -> State:
    """Fit stage by stage through public calls, and look at each result before the next stage."""
    state: State = {}
    rows = _Rows(pool.rows, pool.live)
    settings: dict[str, Any] = {"factors_name": NAME, "factor_args": _factor_arguments(options)}
    data: dict[str, Any] = {"dataset": rows, "per_device_batch_size": options.chunk_rows}
    with _analyzer(view, uses, options, pool) as analyzer:
        if options.strategy in ROTATED:
            analyzer.fit_covariance_matrices(**settings, **data)
            found = _covariances(analyzer, uses)
            _check(view, uses, pool, options, found)
            try:
                analyzer.perform_eigendecomposition(**settings)
                eigen = _named(analyzer.load_eigendecomposition(NAME))
            except torch.linalg.LinAlgError:  # as CUDA says it; the ladder has more to try
                eigen = {}
            state = decomposed(found, eigen)
            _write_eigen(analyzer, state)  # repaired or as it was
        if options.strategy != "kfac":
            analyzer.fit_lambda_matrices(**settings, **data)
            sums = analyzer.load_lambda_matrices(NAME)
            for module, total in sums["lambda_matrix"].items():
                count = int(sums["num_lambda_processed"][module])
                state[f"lambda:{module}"] = total.float() / count
    return state


def _check(view: View, uses: list[Use], pool: Pool, options: Ekfac, found: State) -> None:
    """Refuse bad covariances, by the row that is to blame where one is."""
    for name, matrix in found.items():
        side, _, module = name.partition(":")
        try:
            check_covariance(matrix, module, SIDES[side])
        except FloatingPointError:
            hooks.refuse_row(view, uses, pool, options.chunk_rows, "covariances")
            raise


def _score_by_kronfluence(
    view: View, uses: list[Use], prepared: State, rows: Batch, options: Ekfac
) -> Tensor:
    """Return [N, Q] by the pairwise path, rows traversed once; the damping is in the factors."""
    kronfluence = _kronfluence()
    query, weights = from_state(prepared, "query"), prepared["weights"]
    batch = min(options.chunk_rows, len(query.rows))
    arguments = kronfluence.ScoreArguments(
        damping_factor=0.0,
        query_gradient_accumulation_steps=ceil(len(query.rows) / batch),
        aggregate_query_gradients=options.queries != "each",
        amp_dtype=torch.bfloat16 if options.precision == "bfloat16" else None,
    )
    with _analyzer(view, uses, options, None) as analyzer:
        _write_factors(analyzer, uses, prepared, options)
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
    tokens, num_queries = rows.targets.shape[1], total.shape[1]
    flops = network_flops(view, uses, rows) * (len(rows.rows) + len(query.rows))
    view.bill(flops + _pairwise_flops(uses, len(rows.rows), len(query.rows), tokens, options))
    refuse_non_finite(view, rows, f"{num_queries} scores by kronfluence", total)
    if options.reduction == "sum":
        return total
    return total / rows.mask.sum(1).clamp(min=1).double().cpu()[:, None]


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


def _kronfluence() -> Any:
    try:
        import kronfluence
        import kronfluence.factor.eigen
        import kronfluence.utils.save
    except ImportError as error:
        fix = 'pip install "steelyard[attribution]", or fitter = "hooks" and another route'
        raise ImportError(f"kronfluence is not installed ({error}); {fix}") from error
    return kronfluence


def _task(view: View, names: list[str], pool: Pool | None) -> Any:
    """Return what kronfluence asks of a task; a row's loss is the sum over its counted targets."""

    class RowTask(_kronfluence().Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            rows = Batch(*(batch[name] for name in FIELDS))
            first = batch["first"] if sample else None
            losses = summed_losses(model, rows, first, pool.key if pool else 0)
            refuse_non_finite(view, rows, "the loss", losses.detach())
            return losses.sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            rows = Batch(*(batch[name] for name in FIELDS))
            losses = summed_losses(model, rows, None, 0) / rows.mask.sum(1).clamp(min=1)
            return (losses * batch["weight"]).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> Tensor | None:
            live: Tensor = batch["live"]
            return live if pool is not None and pool.live is not None else None

    return RowTask()


@contextmanager
def _analyzer(view: View, uses: list[Use], options: Ekfac, pool: Pool | None) -> Iterator[Any]:
    """Yield kronfluence's analyzer of a copy of the model, in a folder that goes away.

    Its loader draws from the global generator, and its code warns about itself.
    """
    kronfluence = _kronfluence()
    task = _task(view, [use.name for use in uses], pool)
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
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


def _factor_arguments(options: Ekfac) -> Any:
    dtype = getattr(torch, options.covariance_dtype)
    return _kronfluence().FactorArguments(
        strategy=options.strategy,
        use_empirical_fisher=options.labels == "empirical",
        amp_dtype=torch.bfloat16 if options.precision == "bfloat16" else None,
        covariance_max_examples=None,
        lambda_max_examples=None,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
    )


# Our names of a decomposition's parts, and kronfluence's.
EIGEN = {
    "A_vec": "activation_eigenvectors",
    "A_val": "activation_eigenvalues",
    "G_vec": "gradient_eigenvectors",
    "G_val": "gradient_eigenvalues",
}


def _covariances(analyzer: Any, uses: list[Use]) -> State:
    sums, found = analyzer.load_covariance_matrices(NAME), {}
    for use in uses:
        for side, theirs in (("A", "activation"), ("G", "gradient")):
            total = sums[f"{theirs}_covariance"][use.name].double()
            count = int(sums[f"num_{theirs}_covariance_processed"][use.name])
            found[f"{side}:{use.name}"] = total / count
    return found


def _named(loaded: dict[str, dict[str, Tensor]]) -> State:
    return {
        f"{ours}:{module}": tensor
        for ours, theirs in EIGEN.items()
        for module, tensor in loaded[theirs].items()
    }


def _write_eigen(analyzer: Any, state: State) -> None:
    parts = {
        theirs: {
            name.partition(":")[2]: tensor.contiguous()
            for name, tensor in state.items()
            if name.startswith(f"{ours}:")
        }
        for ours, theirs in EIGEN.items()
    }
    folder = analyzer.factors_output_dir(NAME)
    _kronfluence().factor.eigen.save_eigendecomposition(output_dir=folder, factors=parts)


def _write_factors(analyzer: Any, uses: list[Use], factors: State, options: Ekfac) -> None:
    """Write damped factors as kronfluence would; kfac is ekfac with its own eigenvalues."""
    kronfluence, folder = _kronfluence(), analyzer.factors_output_dir(NAME)
    form = "ekfac" if options.strategy in ROTATED else options.strategy
    arguments = kronfluence.FactorArguments(strategy=form).to_dict()
    kronfluence.utils.save.save_json(arguments, folder / "factor_arguments.json")
    if options.strategy in ROTATED:
        _write_eigen(analyzer, factors)
    if options.strategy == "identity":
        return
    damped, one = {}, {}
    for module in (use.name for use in uses):
        values = spectrum(factors, module, options.strategy)
        damped[module] = values + absolute(values, options.damping, options.damping_unit)
        one[module] = torch.ones(1, dtype=torch.int64)
    parts = {"lambda_matrix": damped, "num_lambda_processed": one}
    kronfluence.factor.eigen.save_lambda_matrices(output_dir=folder, factors=parts)


def _fit_flops(uses: list[Use], pool: Pool, options: Ekfac) -> float:
    """Return what factors and the check of their vectors cost beyond the network's passes."""
    tokens, total, once = pool.rows.targets.shape[1], 0.0, 0.0
    rotated = options.strategy in ROTATED
    for use in uses:
        out, size = hooks.sizes(use)
        size += bool(use.bias)
        once += 2.0 * (out**3 + size**3) * rotated
        total += 2.0 * tokens * (out**2 + size**2) * rotated
        if options.strategy != "kfac":
            total += 2.0 * tokens * out * size
            total += 2.0 * out * size * (out + size) * rotated
    if options.fitter == "hooks":
        total = hooks.covariance_flops(uses, tokens) * rotated
        if options.strategy != "kfac":
            total += hooks.second_moment_flops(uses, tokens, rotated)
    return total * len(pool.rows.rows) + once


def _pairwise_flops(
    uses: list[Use], num_rows: int, num_queries: int, tokens: int, options: Ekfac
) -> float:
    total = 0.0
    columns = num_queries if options.queries == "each" else 1
    for use in uses:
        out, size = hooks.sizes(use)
        size += bool(use.bias)
        total += 2.0 * tokens * out * size * num_queries
        total += 4.0 * columns * out * size * (out + size) * (options.strategy in ROTATED)
        per_row = min((tokens + columns) * out * size, columns * tokens * out * (size + 1))
        total += 2.0 * num_rows * per_row
    return total
