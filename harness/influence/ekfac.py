"""Influence with the curvature of the loss divided out: EKFAC, KFAC, diagonal or none.

    score = <g_i, (F + damping)^-1 g_q>, positive: training on row i lowers query q's loss

kronfluence fits the factors on a copy of the model and is the reference; it is imported here alone
and used in harness/influence/reference_factors.py. What follows from the factors is ours: queries
are preconditioned once, then either each row costs one backward pass whatever the number of queries
("hooks"), or, for one query, one forward pass at parameters moved along its preconditioned gradient
("directional"), which is two to three times cheaper than kronfluence. Its pairwise path is
`route = "kronfluence"`; for many queries the hooks cost about the same (RESULTS.md) and need no
second copy of the model.

A query's loss is the mean over its counted targets, a row's the mean or the sum. kronfluence uses
sums for both: its score over a row's and a query's counted targets is ours. The Fisher is always
that of a row's sum. Left out: Adam's preconditioner, which is another answer to the same question.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.influence.along_queries import as_state, check_rows, score_along, steps, told
from harness.influence.factor_health import check_lambda, decomposed
from harness.influence.fisher import Labels, countable
from harness.influence.fisher_by_hooks import check_covariances, covariances, second_moments
from harness.influence.fisher_flops import fit_flops, pairwise_flops
from harness.influence.flops import rows_per_pass
from harness.influence.gradients import GradDot
from harness.influence.parts import Detail
from harness.influence.preconditioner import ROTATED, Strategy, Unit, health
from harness.influence.queries import Queries, query_weights
from harness.influence.query_gradients import network_flops, preconditioned_queries
from harness.influence.reference_factors import fit_by_kronfluence, score_by_kronfluence
from harness.influence.row_gradients import Precision, Reduction
from harness.influence.selection import Use, choose, coverage, largest

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View
    from harness.influence.fisher import Pool

Route = Literal["auto", "kronfluence", "hooks", "directional"]
Fitter = Literal["kronfluence", "hooks"]


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
    """How rows are scored; auto: directional for one query where its step holds, else hooks."""
    fitter: Fitter = "kronfluence"
    """Who fits the factors: the reference, or our hooks, which find the same ones in less time."""
    precision: Precision = "float32"
    """What the network computes in, and a single query's products with it; factors are float32."""
    covariance_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"
    """What covariances are summed in; a float16 sum that overflows is an error."""
    check_rows: Annotated[int, Field(strict=True, gt=0)] = 16
    """Rows of the pool on which a finite difference's step is checked."""
    chunk_rows: Annotated[int, Field(strict=True, ge=0)] = 0
    """Rows per pass; scores do not depend on it. 0: as many as have 4,096 tokens (on a GPU
    16,384), at most 64, or 16 of large parameters."""
    detail: tuple[Detail, ...] = ()
    """Parts told beside the total: of "modules", of "tokens" (harness/influence/parts.py)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.detail and self.route not in ("auto", "hooks"):
            raise ValueError(f'detail needs route = "hooks", not {self.route!r}')

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
        uses = self.uses(view)
        network = network_flops(view, uses, rows.rows) * len(rows.rows.rows)
        options = self._sized(rows.rows, uses)
        if self.fitter == "hooks":
            factors = _fit_by_hooks(view, uses, rows, options)
        else:
            factors = fit_by_kronfluence(import_kronfluence(), view, uses, rows, options)
        for module in (use.name for use in uses if f"lambda:{use.name}" in factors):
            check_lambda(factors[f"lambda:{module}"], module)
        passes = (self.strategy != "diagonal") + (self.strategy != "kfac")
        view.bill(
            network * passes + fit_flops(uses, rows, self), passes * rows.rows.targets.numel()
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
        found = preconditioned_queries(view, self.uses(view), fitted, query, weights, self)
        exact = self.queries == "each" or bool(self.detail)
        if self.route == "hooks" or (self.route == "auto" and exact):
            return found
        return {**found, **steps(view, fitted, found, self.route == "auto")}

    def score(self, view: View, prepared: State, rows: Batch, base: Tensor | None = None) -> Scores:
        """Return influence [N, Q] float64 on the CPU; FloatingPointError names row and module.

        `base` [N] are the rows' mean losses at these very parameters, where they are known: the
        directional route then takes one forward pass per row instead of two.
        """
        here = coverage(view.model, self.modules, self.last_blocks, self.biases)
        if "weights" in prepared:
            total = self._by_kronfluence(view, prepared, rows)
            route = "kronfluence"
        elif "eps" in prepared:
            total = score_along(view, prepared, rows, base, self.reduction)
            route = "directional"
        else:
            found = self._exact().score(view, prepared, rows)
            names = {k: v for k, v in found.about.items() if k == "module_names"}
            return replace(found, about={**self.about(), "route": "hooks", **here, **names})
        return Scores(total, about={**self.about(), "route": route, **here, **told(prepared)})

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        left_out = ("kind", "chunk_rows", "check_rows", "detail")
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in left_out}
        facts["modules"] = " ".join(self.modules)
        return {
            "estimator": self.kind,
            "approximates": "grad_dot",  # but for the curvature, whose effect is worth knowing
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

    def uses(self, view: View) -> list[Use]:
        """Return the modules with factors; ValueError where one has none."""
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

    def _by_kronfluence(self, view: View, prepared: State, rows: Batch) -> Tensor:
        uses, num_queries = self.uses(view), len(prepared["query_rows"])
        network = network_flops(view, uses, rows) * (len(rows.rows) + num_queries)
        tokens = rows.targets.shape[1]
        view.bill(
            network + pairwise_flops(uses, len(rows.rows), num_queries, tokens, self),
            rows.targets.numel() + prepared["query_targets"].numel(),
        )
        options = self._sized(rows, uses)
        return score_by_kronfluence(import_kronfluence(), view, uses, prepared, rows, options)

    def _sized(self, rows: Batch, uses: list[Use]) -> Ekfac:
        """Return the same with a number of rows per pass."""
        return replace(
            self, chunk_rows=self.chunk_rows or rows_per_pass(rows.inputs, largest(uses))
        )

    def _exact(self) -> GradDot:
        return GradDot(
            modules=self.modules,
            last_blocks=self.last_blocks,
            biases=self.biases,
            preconditioner="none",
            precision=self.precision,
            chunk_rows=self.chunk_rows,
            reduction=self.reduction,
            detail=self.detail,
        )


def _fit_by_hooks(view: View, uses: list[Use], pool: Pool, options: Ekfac) -> State:
    state: State = {}
    if options.strategy in ROTATED:
        dtype = getattr(torch, options.covariance_dtype)
        found = covariances(view, uses, pool, options.chunk_rows, dtype, options.precision)
        check_covariances(view, uses, pool, options.chunk_rows, found)
        state = decomposed(found)
    if options.strategy == "kfac":
        return state
    vectors = state if options.strategy == "ekfac" else None
    moments = second_moments(view, uses, pool, options.chunk_rows, vectors, options.precision)
    return {**state, **moments}


def import_kronfluence() -> Any:
    """Return the package, with what is used of it loaded; ImportError says how to install it."""
    try:
        import kronfluence
        import kronfluence.factor.eigen
        import kronfluence.utils.dataset
        import kronfluence.utils.save
    except ImportError as error:
        fix = 'pip install "steelyard[attribution]", or fitter = "hooks" and another route'
        raise ImportError(f"kronfluence is not installed ({error}); {fix}") from error
    return kronfluence
