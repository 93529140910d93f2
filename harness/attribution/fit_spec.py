"""What `attribute fit` is asked for: the table [factors] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(strict=True, gt=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
OnNonfinite = Literal["error", "retry-float32", "more-damping", "mask"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Factors:
    """The curvature that scores divide by."""

    strategy: Literal["ekfac", "kfac", "diagonal", "identity"] = "ekfac"
    modules: tuple[str, ...] = ("mlp",)
    """"linear", "mlp" (gate, up and down projections), or regular expressions of module names."""
    rows: Count | None = None
    """Train rows to fit on, in the pool's keyed order; all of them by default."""
    labels: Literal["sampled", "empirical"] = "sampled"
    """Drawn from the model (true Fisher), or the row's own (empirical Fisher)."""
    biases: Annotated[bool, Field(strict=True)] = True
    """Whether the biases of the chosen modules count."""
    fitter: Literal["hooks", "kronfluence"] = "kronfluence"
    """The reference, or our hooks, which find the same factors."""
    data_partitions: Count = 4
    """Parts of the rows, each kept when it is done: what an interruption costs at most."""
    module_partitions: Count = 1
    """Parts of the modules, in memory one after the other; each costs passes of its own."""
    batch_rows: Count = 16
    """Rows per pass."""
    workers: Annotated[int, Field(strict=True, ge=0)] = 0
    """Processes that hand rows to kronfluence."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in; factors are float32."""
    covariance_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"
    """What covariances are summed in; a float16 sum that overflows does what on_nonfinite says."""
    trace_ridge: Annotated[float, Field(strict=True, ge=0)] = 0.0
    """Share of each covariance's trace that is added to its diagonal; damping does without."""
    damping: Positive = 0.1
    """Added to the eigenvalues when rows are scored."""
    damping_unit: Literal["relative", "absolute"] = "relative"
    """A share of the module's mean eigenvalue, or a number."""
    on_nonfinite: OnNonfinite = "error"
    """What follows a value that is NaN or infinite; whatever is done is recorded."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.precision == "float16":
            fix = 'use "bfloat16", which has the range of float32'
            raise ValueError(f"precision: float16 overflows above 65504; {fix}")
        if self.workers and self.fitter == "hooks":
            fix = "leave workers out"
            raise ValueError(f"workers: hooks read rows from mapped memory and need none; {fix}")
        if self.trace_ridge and self.strategy not in ("ekfac", "kfac"):
            what = f"{self.strategy} has no covariance"
            raise ValueError(f"trace_ridge: {what}; leave it out, and set damping")
        return self
