"""What a user writes for an attribution: one TOML from fine-tuning to evaluation.

Either it says what to train ([domains], [model], [training] ...), by the same loop as every run, or
`run` names a finished run, such as one of an ablation. Each later stage has a table of its own, and
what a stage needs of an earlier one is found by digests, so a changed key repeats what it must and
nothing else.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.attribution.evaluate_spec import Evaluating
from harness.attribution.fit_spec import Factors
from harness.attribution.query_spec import AnyQueries, SplitQueries
from harness.attribution.score_spec import Scoring
from harness.spec import (
    Auto,
    Batching,
    Checkpoint,
    Corpus,
    Count,
    Domain,
    Model,
    Name,
    Optimizer,
    Seed,
    Splits,
    Tokenizer,
    check_model,
)

_FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Training:
    """How long the model is fine-tuned, and how often it is looked at.

    Every step's loss, learning rate and gradient norm are recorded; there is no interval to set.
    """

    epochs: Annotated[float, Field(strict=True, gt=0)] | None = None
    """Passes over the training rows; with several domains, over all of them together."""
    steps: Count | None = None
    """Or optimizer steps."""
    validate_every: Count = 50
    """Steps between looks at the validation rows, which are the corpus's tuning split."""
    validation_rows: Count = 64
    """Rows per domain; all there are where a domain has fewer."""
    keep_every: Count | None = None
    """Steps between checkpoints that are kept; by default the best and the last alone."""
    attribute: Literal["best", "last"] = "best"
    """Which checkpoint later stages open: the one of lowest validation loss, or the last."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("set one of epochs and steps, not both")
        return self

    def num_steps(self, train_rows: int, batch_rows: int) -> int:
        """Return the optimizer steps; one epoch where the spec is silent."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 1.0) * train_rows / batch_rows))


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Attribution:
    """Which training rows made the model say what it says: the file that a user writes."""

    name: Name
    run: str | None = None
    """A finished run's folder, OUT/runs/RUN_ID, in place of training one."""
    seed: Seed = 0
    domains: dict[Name, Domain] = Field(default_factory=dict)
    splits: Splits = Splits(probe=0.05, tuning=0.05, heldout=0.05)
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    batch: Batching = Batching(pack=False)
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    checkpoint: Checkpoint = Checkpoint()
    queries: AnyQueries = SplitQueries()
    factors: Factors = Factors()
    scores: Scoring = Scoring()
    evaluate: Evaluating = Evaluating()
    trackers: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count | Auto = "auto"
    compile: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.run is None and not self.domains:
            raise ValueError("domains: is missing; say what to train on, or give `run`")
        if self.run is not None and self.domains:
            raise ValueError(
                "run: belongs to a run that is there, and domains to one to be trained"
            )
        if self.model.objective == "masked":
            why = "a masked model predicts hidden tokens, and rows here have a next one"
            raise ValueError(f"model.objective: {why}; choose a causal model")
        check_model(self.model, self.tokenizer)
        return self

    @property
    def corpus(self) -> Corpus:
        """The part of the spec that decides which tokens exist."""
        return Corpus(domains=self.domains, splits=self.splits, tokenizer=self.tokenizer)

    @property
    def targets(self) -> dict[str, Any]:
        """Weights of the trained domains as targets, sum 1: a run must name some."""
        trained = [name for name, domain in self.domains.items() if domain.train]
        return {name: 1 / len(trained) for name in trained}
