"""What `attribute score` is asked for: the table [scores] of an attribution's spec.

Estimators are given by name, or as a table with settings under a label of its own:

    [scores]
    estimators = ["ekfac", "grad_cos"]

    [scores.estimators]
    ekfac = "ekfac"
    last = { kind = "grad_dot", modules = ["mlp"], last_blocks = 2 }

Names are checked here, settings when torch is imported anyway, before anything is computed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.spec import Name

Count = Annotated[int, Field(strict=True, gt=0)]
Flag = Annotated[bool, Field(strict=True)]
Normalize = Literal["none", "per_token", "cosine", "self_influence"]
OnNonfinite = Literal["error", "mask", "retry-float32", "more-damping"]

# ekfac's strategies go by names of their own: the fitted factors of [factors] serve them all.
CURVED = ("ekfac", "kfac", "diagonal", "identity")
KINDS = (
    *CURVED,
    "grad_dot",
    "grad_cos",
    "directional",
    "jvp_landmark",
    "hidden_landmark",
    "influcoder",
    "similarity",
    "bm25",
    "random",
)


def _usual() -> dict[str, str | dict[str, Any]]:
    return {"ekfac": "ekfac", "grad_cos": "grad_cos"}


def _by_label(value: Any) -> Any:
    """Let a list of names stand for each under its own name."""
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        twice = sorted({name for name in value if list(value).count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} stands there twice; give labels, as in a table")
        return {name: name for name in value}
    return value


Estimators = Annotated[dict[Name, str | dict[str, Any]], BeforeValidator(_by_label)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Scoring:
    """Which estimators score which rows, and how scores are kept."""

    estimators: Annotated[Estimators, Field(min_length=1)] = Field(default_factory=_usual)
    """Names, or a table of label = name or { kind = name, ...settings }."""
    rows: Count | None = None
    """Train rows that are scored, in a keyed order; all of them by default."""
    fit_rows: Count = 512
    """Train rows that landmarks and influcoder learn from, in the same order."""
    rank: Count | None = None
    """Keep query gradients at this rank: less memory, less accuracy, which is measured."""
    rank_rows: Count = 64
    """Rows on which scores at that rank are compared with those at full rank."""
    whole_queries: Count = 8
    """Query gradients held whole at once, where a rank is set."""
    modules: Flag = False
    """Keep each module's part of every score, [N, Q, M]."""
    tokens: Flag = False
    """Keep each position's part of every score, [N, Q, T]."""
    self_influence: Flag = False
    """Keep each row's score on itself [N], and each query's [Q]."""
    normalize: Normalize = "none"
    """What scores are divided by; harness/attribution/normalize.py has the formulas."""
    threshold: Annotated[float, Field(strict=True, ge=0)] = 0.0
    """Scores nearer to zero than so many standard deviations of their query's are not counted as
    influence by `top` and `select`; the store keeps them as they are."""
    on_nonfinite: OnNonfinite = "error"
    """What follows a score that is NaN or infinite; whatever is done is recorded."""
    store: Literal["npy", "parquet"] = "npy"
    """A memory-mapped array, or one parquet file per chunk of rows."""
    chunk_rows: Count = 64
    """Rows that are scored between two writes: what an interruption costs at most."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for label, given in self.estimators.items():
            kind = given if isinstance(given, str) else given.get("kind")
            if kind == "group":
                fix = "use grad_dot, and take means of its scores"
                raise ValueError(f"estimators.{label}: group scores domains, not rows; {fix}")
            if kind not in KINDS:
                there = ", ".join(KINDS)
                raise ValueError(
                    f"estimators.{label}: {kind!r} is no estimator; take one of {there}"
                )
        if self.store == "parquet" and (self.modules or self.tokens):
            raise ValueError('store: parquet keeps totals alone; set "npy" for modules or tokens')
        return self
