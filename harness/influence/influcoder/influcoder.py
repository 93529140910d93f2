"""Influence without gradients: an encoder that was taught the cosines of row gradients.

`fit` takes adapter gradients of pool and queries once (lora_gradients.py), trains an encoder on
their cosines (distill.py) and keeps its weights. From then on a row's score is the cosine of two
short vectors, and a row's vector does not depend on the query: 2 d bytes a row when stored.

Score: the cosine that the encoder predicts for the row's and the query's plain adapter gradients;
with several query rows as one query, the weighted mean of their cosines, not the cosine of a mean
gradient. Positive: training on the row is predicted to lower the query's loss. Nothing is in nats
and lengths are gone, so only ranks mean anything. The price: the encoder knows the model that it
was fitted on. When training moves on it goes stale without a sign; `validate` compares it with
fresh gradients on rows that it was not trained on, and says so.

The paper ranks text for instruction tuning by a fixed model; refreshing the encoder in a run is
this project's own use. The optimizer has no moments for the adapter, so there is no Adam form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.influence.finite import refuse_non_finite
from harness.influence.flops import billed, rows_per_pass
from harness.influence.influcoder.agreement import agreement, split, unseen
from harness.influence.influcoder.distill import Distillation, distill
from harness.influence.influcoder.encoder import SCRATCH, Encoder, decoder, open_encoder
from harness.influence.influcoder.lora_gradients import (
    Adapter,
    adapted,
    cosines,
    row_features,
)
from harness.influence.influcoder.words import bag_of_words
from harness.influence.queries import Queries, query_weights
from harness.influence.row_gradients import Precision
from harness.influence.selection import coverage
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View

ENCODED = 4  # times chunk_rows in one pass of the encoder, which keeps nothing for a backward one
WEIGHT = "encoder:"  # before the names of the encoder's tensors in a State
RATES = {SCRATCH: 1e-3}  # 5e-5 is the paper's, for encoders that were trained before


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Influcoder:
    """Cosines of embeddings that were distilled from gradients."""

    kind: Literal["influcoder"] = "influcoder"
    encoder: Annotated[str, Field(strict=True, min_length=1)] = SCRATCH
    """"scratch", or a sentence-transformers model by name or folder."""
    tokenizer: str = ""
    """tokenizer.json (or its folder) that turns rows back to text, for any encoder but scratch."""
    queries: Queries = "each"
    """Each query row, or the weighted mean of their cosines (equal, or by the run's target)."""
    modules: tuple[str, ...] = ("linear",)
    """Where the adapter goes; see harness/influence/selection.py."""
    last_blocks: Annotated[int, Field(strict=True, ge=0)] = 0
    """Only the last n blocks; 0 keeps all."""
    rank: Annotated[int, Field(strict=True, gt=0)] = 8
    """Rank of the adapter."""
    dims: Annotated[int, Field(strict=True, ge=0)] = 8192
    """Dimensions of the sketched gradient; 0 keeps it whole."""
    epochs: Annotated[int, Field(strict=True, ge=0)] = 8
    """Rounds of training; 0 leaves the encoder untrained, the baseline."""
    learning_rate: Annotated[float, Field(strict=True, gt=0)] | None = None
    """None: 1e-3 from scratch, 5e-5 for any other encoder."""
    block_queries: Annotated[int, Field(strict=True, gt=0)] = 8
    """Queries per training block."""
    block_rows: Annotated[int, Field(strict=True, gt=1)] = 16
    """Rows per training block."""
    hard_ratio: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    """Share of a block's rows that are those with the highest target."""
    holdout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.2
    """Share of pool and queries that `fit` keeps out of training, to tell how well it went."""
    stale_below: Annotated[float, Field(strict=True, ge=-1, le=1)] = 0.3
    """`validate` calls an encoder stale when its Spearman with gradients is lower."""
    precision: Precision = "float32"
    """What the network computes adapter gradients in; the paper's is bfloat16."""
    chunk_rows: Annotated[int, Field(strict=True, ge=0)] = 0
    """Rows per pass; scores do not depend on it. 0: as many as have 4,096 tokens (on a GPU
    16,384), at most 64."""
    seed: Annotated[int, Field(strict=True)] = 0
    """Of the adapter, the sketch, the split, the encoder and its training."""

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return a trained encoder. Without queries, a quarter of the pool stands in for them.

        `encoder:*` are its weights; `trained_rows` and `trained_queries` [n, 2] say by domain and
        row what it was trained on; `validation`, where rows are held out, is Spearman per query,
        aggregated, and both of the untrained encoder.
        """
        if queries is None:
            some, rest = split(len(pool.rows), 0.25, self._rng("stand-ins"))
            pool, queries = pool.select(rest), pool.select(some)
        pool, queries = _counted(pool), _counted(queries)
        targets = self.targets(view, pool, queries)
        (held_q, q), (held_p, p) = (
            split(len(rows.rows), self.holdout, self._rng(name))
            for name, rows in (("queries", queries), ("pool", pool))
        )
        state = self.learn(view, pool.select(p), queries.select(q), targets[q][:, p])
        if len(held_q) and len(held_p) > 2:
            held = targets[held_q][:, held_p].cpu()
            rows, others = pool.select(held_p), queries.select(held_q)
            untrained = self.learn(view, rows, others, held, train=False)
            found = [self.predicted(view, s, rows, others) for s in (state, untrained)]
            facts = [number for scores in found for number in agreement(scores, held)]
            state["validation"] = torch.tensor(facts, dtype=torch.float64)
            words = agreement(bag_of_words([pool.select(p)], rows, others), held)
            names = ("distilled", "untrained", "bag_of_words")
            pairs = zip(names, [facts[:2], facts[2:], list(words)], strict=True)
            told: dict[str, Note] = {"rows": len(held_p), "queries": len(held_q)}
            view.note("influcoder", {**told, **{name: list(pair) for name, pair in pairs}})
        return state

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return the queries [Q, d]: weighted means of embeddings of length 1."""
        weights = query_weights(view, query, self.queries)
        embedded = self.embed(view, fitted, query).double().cpu()
        return {**_weights(fitted), "queries": weights @ embedded}

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return cosines [N, Q] float64 on the CPU; 0 for a row without counted targets."""
        embedded = self.embed(view, prepared, rows).double().cpu()
        found = self.score_stored(prepared, embedded)
        here = coverage(view.model, self.modules, self.last_blocks)
        return replace(found, about={**found.about, **here})

    def score_stored(self, prepared: State, embedded: Tensor) -> Scores:
        """Return the scores of embeddings [N, d] that were kept, in whatever precision."""
        return Scores(embedded.cpu().double() @ prepared["queries"].T, about=self.about())

    def embed(self, view: View, fitted: State, rows: Batch) -> Tensor:
        """Return embeddings [N, d] float32; to store them, float16 is enough: 2 d bytes a row."""
        encoder = self._encoder(view, fitted, rows.inputs.device)

        def of_chunk(chunk: Batch) -> Tensor:
            with torch.no_grad():
                embedded = encoder(chunk)
            refuse_non_finite(view, chunk, "embedding", embedded)
            return embedded

        size = ENCODED * (self.chunk_rows or rows_per_pass(rows.inputs))
        return billed(view, rows, size, of_chunk)

    def validate(self, view: View, fitted: State, rows: Batch, query: Batch) -> dict[str, float]:
        """Compare with the gradients of the model as it is now, on rows not trained on.

        `spearman` is the mean over this estimator's queries, `aggregated` that of the mean over
        queries; `stale` is 1 where `spearman` is below `stale_below`. For studies and for
        attribution; a run compares by its own schedule (harness/influence/rebalancing.py).
        """
        rows = unseen(_counted(rows), fitted["trained_rows"])
        if len(rows.rows) < 3:
            raise ValueError(
                f"influcoder: {len(rows.rows)} rows to validate on are new to the encoder; give 3"
            )
        new = unseen(query, fitted["trained_queries"])
        weights = query_weights(view, query, self.queries)
        truth = weights @ self.targets(view, rows, query).double().cpu()
        scores = self.score(view, self.prepare(view, fitted, query), rows).total.T
        per_query, aggregated = agreement(scores, truth)
        return {
            "spearman": per_query,
            "aggregated": aggregated,
            "rows": float(len(rows.rows)),
            "new_queries": len(new.rows) / len(query.rows),
            "stale_below": self.stale_below,
            "stale": float(per_query < self.stale_below),
        }

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        return {
            "estimator": self.kind,
            "approximates": "grad_cos",
            "score": "predicted cosine of adapter gradients",
            "query": {"each": "each row"}.get(self.queries, "weighted mean of rows' cosines"),
            "queries": self.queries,
            "query_reduction": "mean",
            "reduction": "none: a cosine",
            "preconditioner": "none",
            "sign": "positive: training on the row lowers the query's loss",
            "modules": " ".join(self.modules),
            "last_blocks": self.last_blocks,
            "encoder": self.encoder,
            "rank": self.rank,
            "dims": self.dims,
            "precision": self.precision,
            "seed": self.seed,
        }

    def targets(self, view: View, rows: Batch, queries: Batch) -> Tensor:
        """Return the cosines [Q, N] of adapter gradients, which the encoder is to predict."""
        adapter = Adapter(
            rank=self.rank,
            dims=self.dims,
            modules=self.modules,
            last_blocks=self.last_blocks,
            seed=self.seed,
            precision=self.precision,
        )
        on = adapted(view.model, adapter)
        features = row_features(view, adapter, on, queries, self.chunk_rows)  # [Q, dims]
        return cosines(view, adapter, on, rows, features, self.chunk_rows)

    def learn(
        self, view: View, pool: Batch, queries: Batch, targets: Tensor, train: bool = True
    ) -> State:
        """Return an encoder trained on targets [Q, N], or the one that training starts from."""
        if len(queries.rows) < 1 or len(pool.rows) < 2:
            counts = f"{len(queries.rows)} queries and {len(pool.rows)} rows with targets"
            raise ValueError(f"influcoder: {counts} are left to train on; give at least 1 and 2")
        encoder = self._encoder(view, {}, pool.inputs.device)
        if train:
            options = Distillation(
                block_queries=self.block_queries,
                block_rows=self.block_rows,
                hard_ratio=self.hard_ratio,
                epochs=self.epochs,
                learning_rate=self.learning_rate or RATES.get(self.encoder, 5e-5),
                seed=self.seed,
            )
            view.bill(distill(encoder, queries, pool, targets, options))
        state = {WEIGHT + n: t.detach().clone() for n, t in encoder.module.state_dict().items()}
        for name, rows in (("rows", pool), ("queries", queries)):
            state[f"trained_{name}"] = torch.stack([rows.domains, rows.rows], 1).cpu()  # [n, 2]
        return state

    def predicted(self, view: View, fitted: State, rows: Batch, queries: Batch) -> Tensor:
        """Return the encoder's cosines [Q, N] float64, on the CPU."""
        one, other = (self.embed(view, fitted, batch).double().cpu() for batch in (queries, rows))
        return one @ other.T

    def _encoder(self, view: View, fitted: State, device: torch.device) -> Encoder:
        embedding = view.model.get_input_embeddings()  # type: ignore[operator]
        vocabulary = int(embedding.weight.shape[0])
        decode = None if self.encoder == SCRATCH else decoder(self.tokenizer)
        encoder = open_encoder(self.encoder, vocabulary, self.seed, decode, device)
        if fitted:
            weights = {n.removeprefix(WEIGHT): t for n, t in _weights(fitted).items()}
            encoder.module.load_state_dict(weights)
        return encoder

    def _rng(self, name: str) -> torch.Generator:
        return generator(self.seed, "influcoder split", name)


def _weights(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith(WEIGHT)}


def _counted(rows: Batch) -> Batch:
    """Leave out rows without a counted target: they have no gradient."""
    return rows.select(rows.mask.any(1))
