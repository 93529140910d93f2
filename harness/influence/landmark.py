"""Influence Distillation: exact gradients at landmarks, carried to other rows by an embedding.

L landmarks are drawn from the pool, uniformly and without replacement. Their gradients are exact,
of the network as it trains (in bfloat16 where it does), scaled by Adam's factor and projected; a
query's gradient is projected too, never scaled. Kernel ridge regression from cheap embeddings
carries the landmarks' scores to any row. No query enters `fit`; landmarks, gradients and embeddings
are all of the model as it is when `fit` is called, so whoever calls it again at a refresh has them
all anew.

    jvp_landmark     embeds by forward-mode derivatives of the first blocks (harness/influence/jvp)
    hidden_landmark  embeds by hidden states: no derivative, an arm of its own

Scores approximate grad_cos (`normalize`, as in the released code) or grad_dot. Source:
arXiv:2505.19051 and its released code. Deviations: its 4 blocks, 4096 landmarks, down projections
alone and 32768-dimensional Hadamard are options here or a CountSketch; landmark counts and layers
default to what a small model has; the last token is the last counted one, never padding; queries
are scored one by one and the choice of rows (its round-robin) is the caller's.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.influence.directional import adam_scale
from harness.influence.finite import refuse_non_finite
from harness.influence.flops import billed
from harness.influence.jvp import Pooling, jvp_embeddings, tangents_of
from harness.influence.kernel_ridge import Kernel, KernelRidge, Ridge, fit
from harness.influence.projected import (
    Projected,
    Recipe,
    Whole,
    projected_means,
    projected_rows,
)
from harness.influence.projections import CountSketch, Projection, Rademacher
from harness.influence.queries import Queries, query_weights
from harness.influence.row_gradients import Precision, Reduction
from harness.influence.selection import Use, choose, coverage
from harness.influence.trunk import hidden_states, pooled, trunk_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View

Count = Annotated[int, Field(strict=True, gt=0)]
CountOrNone = Annotated[int, Field(strict=True, ge=0)]
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class _Landmark:
    """What both share: everything but the embedding."""

    kind: str = ""
    landmarks: Count = 64
    """Rows with exact gradients."""
    layers: CountOrNone = 2
    """Blocks that the embedding passes through; 0 is all of them."""
    pooling: Pooling = "last"
    """The last counted token of a row, or the mean over its counted tokens."""
    final_norm: Annotated[bool, Field(strict=True)] = True
    """Whether the model's final norm comes after the last of these blocks."""
    dims: CountOrNone = 8192
    """Size of a projected gradient; 0 keeps gradients whole, for checks on small models."""
    damping: Annotated[float, Field(strict=True, ge=0)] = 1e-2
    """Ridge of the regression."""
    ridge: Ridge = "relative"
    """Damping in units of the kernel's mean diagonal, or in the kernel's own."""
    kernel: Kernel = "rbf"
    """With the median distance as bandwidth; or the inner product, not centered."""
    normalize: Annotated[bool, Field(strict=True)] = True
    """Scores are cosines, or dot products."""
    modules: tuple[str, ...] = ("linear",)
    """Whose gradients: "linear", "mlp", "all", or regular expressions (selection.py)."""
    last_blocks: CountOrNone = 0
    """Gradients of only the last n blocks; 0 keeps all."""
    biases: Annotated[bool, Field(strict=True)] = True
    """Whether the biases of the chosen modules count."""
    blocks: str | None = None
    """Dotted name of the list of blocks, where it is not found by structure (layout.py)."""
    preconditioner: Literal["adam", "none"] = "adam"
    """Adam's live second moments, frozen; or plain gradients."""
    queries: Queries = "each"
    """One query per query row, their mean, or the declared target."""
    reduction: Reduction = "mean"
    """A row's loss: mean or sum over its counted targets; of no matter to cosines."""
    seed: CountOrNone = 0
    """Keys tangents and projections: the same at every refresh."""
    chunk_rows: Count = 16
    """Rows per pass; scores do not depend on it."""

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return the landmarks' gradients, and the regression on their embeddings.

        `chosen` [L] are places in the pool, of rows in which something counts. ValueError where
        these are fewer than the landmarks asked for.
        """
        usable = pool.mask.any(1).nonzero()[:, 0].cpu()
        if len(usable) < self.landmarks:
            few = f"the pool has {len(usable)} rows with counted targets"
            raise ValueError(f"landmarks is {self.landmarks}; {few}")
        order = torch.randperm(len(usable), generator=view.rng("landmarks"))
        chosen = usable[order[: self.landmarks]].sort().values
        rows = pool.select(chosen.to(pool.rows.device))
        scale = adam_scale(view) if self.preconditioner == "adam" else {}
        gradients = projected_rows(view, rows, self._recipe(view, scale))
        found = self._regression(view, self._embeddings(view, rows))
        return {**found, "chosen": chosen, "gradients": self._vectors(gradients)}

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return the regression with coefficients [L, Q] of these queries."""
        recipe = replace(self._recipe(view, {}), reduction="mean")  # of a query, whatever a row's
        if self.queries == "each":
            gradients = projected_rows(view, query, recipe)
        else:
            gradients = projected_means(
                view, query, query_weights(view, query, self.queries), recipe
            )
        vectors = self._vectors(gradients)
        known = fitted["gradients"].to(vectors.dtype)
        view.bill(2.0 * known.numel() * len(vectors))
        targets = (known @ vectors.T).double()  # [L, Q]
        kept = {name: fitted[name] for name in ("center", "landmarks", "bandwidth", "factor")}
        return {**kept, "coefficients": self._ridge(fitted).coefficients(targets)}

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return [N, Q] float64 on the CPU, 0 for rows in which nothing counts.

        FloatingPointError names row, domain and step.
        """
        embeddings, coefficients = self._embeddings(view, rows), prepared["coefficients"]
        total = self._ridge(prepared).predict(embeddings, coefficients)
        distances = len(embeddings) * prepared["landmarks"].numel()
        view.bill(2.0 * (distances + len(embeddings) * coefficients.numel()))
        total = total.where(rows.mask.any(1).cpu()[:, None], 0.0)
        refuse_non_finite(view, rows, "scores", total)
        chosen = (self.modules, self.last_blocks, self.biases, self.blocks)
        return Scores(total, about={**self.about(), **coverage(view.model, *chosen)})

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if v is not None}
        del facts["kind"], facts["chunk_rows"]
        facts["modules"] = " ".join(self.modules)
        approximates = "grad_cos" if self.normalize else "grad_dot"
        facts = {"query_reduction": "mean", "approximates": approximates, **facts}
        return {"estimator": self.kind, "sign": "positive lowers the query's loss", **facts}

    def _embeddings(self, view: View, rows: Batch) -> Tensor:
        """Return [N, E] on the CPU."""
        raise NotImplementedError

    def _recipe(self, view: View, scale: Any) -> Recipe:
        uses = choose(view.model, self.modules, self.last_blocks, self.biases, self.blocks)
        as_it_trains: Precision = "bfloat16" if view.precision == "bfloat16" else "float32"
        what = uses, self._projection(view, uses), scale
        return Recipe(*what, self.reduction, self.chunk_rows, as_it_trains)

    def _projection(self, view: View, uses: list[Use]) -> Projection:
        if self.dims:
            return CountSketch(self.dims, self.seed)
        names = {name for use in uses for name in (use.weight, use.bias)}
        sizes = {n: p.numel() for n, p in view.model.named_parameters() if n in names}
        return Whole(sizes)

    def _vectors(self, gradients: Projected) -> Tensor:
        return gradients.normalised() if self.normalize else gradients.vectors

    def _regression(self, view: View, embeddings: Tensor) -> State:
        found = fit(embeddings, self.damping, self.seed, self.kernel, self.ridge)
        view.bill(2.0 * len(embeddings) * embeddings.numel())
        bandwidth = torch.tensor(found.bandwidth, dtype=torch.float64)
        state = {"center": found.center, "landmarks": found.landmarks, "factor": found.factor}
        return {**state, "bandwidth": bandwidth}

    def _ridge(self, state: State) -> KernelRidge:
        bandwidth = float(state["bandwidth"])
        places = (state["center"], state["landmarks"])
        return KernelRidge(*places, bandwidth, state["factor"], self.kernel)

    def _in_chunks(self, view: View, rows: Batch, embed: Any) -> Tensor:
        def of_chunk(chunk: Batch) -> Tensor:
            found: Tensor = embed(chunk)
            refuse_non_finite(view, chunk, "its embedding", found)
            return found.cpu()

        return billed(view, rows, self.chunk_rows, of_chunk)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class JvpLandmark(_Landmark):
    """Landmarks by forward-mode derivatives along shared random tangents: the published method."""

    kind: Literal["jvp_landmark"] = "jvp_landmark"
    tangents: Count = 2
    """Random directions in the parameters of the first blocks."""
    embedding_dims: CountOrNone = 0
    """Size of a projected embedding; 0 keeps all tangents x hidden of it."""

    def about(self) -> dict[str, Note]:
        """Return what a score means, and how attention was computed."""
        attention = "written out, on a copy: forward mode has no fused attention"
        return {**super().about(), "attention": attention}

    def _embeddings(self, view: View, rows: Batch) -> Tensor:
        trunk = trunk_of(view.model, self.layers, self.blocks, self.final_norm, attention="eager")
        tangents = tangents_of(trunk, self.tangents, self.seed)
        found = self._in_chunks(
            view, rows, lambda chunk: jvp_embeddings(trunk, chunk, tangents, self.pooling)
        )
        if not self.embedding_dims:
            return found
        view.bill(2.0 * found.numel() * self.embedding_dims)
        return Rademacher(self.embedding_dims, self.seed).project("embedding", found)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class HiddenLandmark(_Landmark):
    """Landmarks by hidden states, without a derivative; the mean over tokens unless told."""

    kind: Literal["hidden_landmark"] = "hidden_landmark"
    pooling: Pooling = "mean"
    """The last counted token of a row, or the mean over its counted tokens."""

    def _embeddings(self, view: View, rows: Batch) -> Tensor:
        trunk = trunk_of(view.model, self.layers, self.blocks, self.final_norm)

        def embed(chunk: Batch) -> Tensor:
            with torch.no_grad():
                return pooled(hidden_states(trunk, chunk.inputs), chunk, self.pooling)

        return self._in_chunks(view, rows, embed)


# What seed 000 computed, by name of embedding and head in each family; a reproduction, not advice:
# the kernel is dominated by what hidden states have in common, and long, loud rows by their norm.
SEED000 = HiddenLandmark(
    landmarks=16,
    layers=2,
    pooling="mean",
    final_norm=False,
    kernel="linear",
    ridge="absolute",
    damping=1e-4,
    normalize=False,
    modules=(r"(^|\.)(wte|embed_tokens|word_embeddings|lm_head|predictions\.decoder)$",),
    preconditioner="none",
)
