"""What `attribute evaluate` is asked for: the table [evaluate] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.spec import Seed

_FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(strict=True, gt=0)]
Several = Annotated[int, Field(strict=True, ge=3)]
"""Fewer have no rank correlation that could be anything but 1 or -1."""
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]

Part = Literal["lds", "removal", "tail_patch", "mislabelled", "planted", "answers", "choice"]
Order = Literal["kept", "new"]
Baseline = Literal["similarity", "bm25", "random"]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Choice:
    """Multiple-choice questions in MMLU's format: question, A, B, C, D, answer; no header."""

    paths: tuple[str, ...] = ()
    """CSV files, or globs; a file's name without `_test` is its subject."""
    dataset: str | None = None
    """Or a data set of the hub with columns question, choices, answer and subject."""
    config: str = "all"
    split: str = "test"
    revision: str | None = None
    questions: Count | None = None
    """Per subject, in a keyed order; all of them by default."""
    shots: Annotated[int, Field(strict=True, ge=0)] = 0
    """Solved questions before each, from the subject's own others."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.paths) == (self.dataset is not None):
            raise ValueError("set exactly one of paths and dataset")
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Evaluating:
    """How attribution and model are judged."""

    parts: tuple[Part, ...] = ("tail_patch", "answers")
    """lds, removal, mislabelled and planted train the model again; what that takes is said."""
    estimators: tuple[str, ...] = ()
    """Labels of [scores]; by default all of them."""
    baselines: tuple[Baseline, ...] = ("similarity", "bm25", "random")
    """Judged beside them; they know nothing of gradients."""
    seed: Seed = 0
    """Of every draw that is made here: subsets, groups, wrong labels, planted facts."""
    jobs: Count | None = None
    """Runs that train at once; by default as many as fit."""

    subsets: Several = 40
    """lds: random subsets of the train rows that the model is trained again on."""
    share: Share = 0.5
    """lds: share of each domain's rows in a subset."""
    replicas: Count = 2
    """lds, removal: trainings on each subset, which differ in initialisation and order. Two or
    more tell what a perfect estimator could reach."""
    order: Order = "kept"
    """lds, removal: rows that are left out stay silent in their places, so that all others come in
    the order they had; or only the others are drawn, in an order of their own and more often."""

    removed: Count = 32
    """removal: train rows that are left out at once."""
    groups: Several = 8
    """removal: random groups of so many rows."""
    removal_queries: Count = 6
    """removal: queries whose top rows are left out, for every estimator; of fewer than six nothing
    is called shown."""

    patched: Count = 8
    """tail_patch: top rows that the model takes one more step on."""
    patch_rate: Annotated[float, Field(strict=True, gt=0)] | None = None
    """tail_patch: the step's learning rate; by default the run's highest."""

    mislabelled: Share = 0.1
    """mislabelled: share of the train rows that are given another row's answer."""

    facts: Count = 16
    """planted: invented facts, each asked for by one query."""
    copies: Count = 2
    """planted: train rows that state each fact, in different words."""

    prompts: Count = 32
    """answers: queries whose prompts the model answers, before and after training."""
    max_new_tokens: Count = 64
    """answers: of each."""
    choice: Choice | None = None
    """choice: the questions; needed for that part."""
    runs: tuple[str, ...] = ()
    """answers, choice: folders of other finished runs, such as an ablation's, judged beside."""
    lm_eval: tuple[str, ...] = ()
    """choice: tasks of lm-evaluation-harness, where `steelyard[lm-eval]` is installed."""

    @model_validator(mode="after")
    def _has_questions(self) -> Self:
        if "choice" in self.parts and self.choice is None and not self.lm_eval:
            raise ValueError(
                "parts: choice needs questions; set choice.paths to CSV files in MMLU's format"
            )
        return self
