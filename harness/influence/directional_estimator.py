"""The directional estimator: each row's loss differentiated along one direction per query.

A query's direction is v = a g_q over all parameters, or those of chosen modules; a score is
<g_i, v>, as that of `grad_dot`, without a gradient of any row. It pays where queries are few: the
cost is one forward pass of every row per query, and one more for all. Which way the derivative is
taken is chosen for each direction in `prepare` (harness/influence/directional_forms.py), so that a
score does not depend on the rows it is asked with, and is part of every record.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.influence.derivatives import by_hooks
from harness.influence.directional import (
    Difference,
    adam_scale,
    derivative,
    preconditioned,
    row_losses,
    weighted_sum,
)
from harness.influence.directional_forms import (
    BY_HOOKS,
    FORMS,
    Form,
    check_rows,
    choose_form,
    in_bfloat16,
    in_forward_mode,
)
from harness.influence.finite import all_finite, refuse_non_finite
from harness.influence.flops import billed
from harness.influence.queries import Queries, query_weights
from harness.influence.row_gradients import Precision, Reduction
from harness.influence.selection import choose, coverage

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Direction, Note, State, View


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Directional:
    """The derivative of each row's loss along the queries' preconditioned gradients."""

    kind: Literal["directional"] = "directional"
    """The name of this estimator."""
    queries: Queries = "each"
    """One query per query row, their mean, or the run's target."""
    preconditioner: Literal["adam", "none"] = "adam"
    """Adam's live second moments, frozen; or plain gradients."""
    modules: tuple[str, ...] = ()
    """Parameters that count: empty for all, or as in harness/influence/selection.py."""
    last_blocks: Annotated[int, Field(strict=True, ge=0)] = 0
    """Only the last n blocks; 0 keeps all. Needs `modules`."""
    biases: Annotated[bool, Field(strict=True)] = True
    """Whether the biases of the chosen modules count."""
    difference: Literal["one_sided", "central", "forward"] = "one_sided"
    """Finite difference with one or two forward passes, or forward-mode differentiation: exact,
    about 1.6 training steps, on a copy of the model with attention written out. A run in bfloat16
    on a GPU tries the exact form by hooks before a difference."""
    precision: Precision = "float32"
    """What the shifted network computes in; bfloat16 needs central differences, and a trial that
    finds them right. The exact form that takes over computes as the run trains."""
    check_rows: Annotated[int, Field(strict=True, gt=0)] = 8
    """Candidate rows on which a step is tried."""
    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets."""
    chunk_rows: Annotated[int, Field(strict=True, gt=0)] = 16
    """Rows per pass of the exact forms; scores do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.precision == "bfloat16" and self.difference != "central":
            raise ValueError(
                f'precision = "bfloat16" needs difference = "central", not {self.difference!r}'
            )
        if self.last_blocks and not self.modules:
            raise ValueError('last_blocks needs modules, for example modules = ["linear"]')

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return nothing: directions are taken anew for each model."""
        return {}

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return one direction per query, `along:P` [Q, *P], and how each is scored.

        `form` [Q] counts in FORMS; `eps` [Q] multiplies the direction, `relative_step` [Q] is
        |eps v| / |parameters|, both 0 for exact forms; `disagreement` [Q] is that of the last
        step tried, 0 where none was.
        """
        weights, names = query_weights(view, query, self.queries), self._names(view)
        directions = [_gradient(view, query, row_weights, names) for row_weights in weights]
        if self.preconditioner == "adam":
            scale = adam_scale(view)
            directions = [preconditioned(gradient, scale) for gradient in directions]
        rows = check_rows(view, self.check_rows)
        forms = [self._form(view, rows, along) for along in directions]
        if any(form.name == "forward" for form in forms):
            view.note("directional", {**_told(forms), "attention": "eager, on a copy"})
        state = {f"along:{n}": torch.stack([d[n] for d in directions]) for n in names}
        numbers = {
            "eps": [form.eps for form in forms],
            "relative_step": [form.relative for form in forms],
            "disagreement": [form.disagreement for form in forms],
            "flops": [form.flops for form in forms],
        }
        state |= {name: torch.tensor(v, dtype=torch.float64) for name, v in numbers.items()}
        return {**state, "form": torch.tensor([FORMS.index(form.name) for form in forms])}

    def score(self, view: View, prepared: State, rows: Batch, base: Tensor | None = None) -> Scores:
        """Return <g_i, a g_q> [N, Q] float64 on the CPU; FloatingPointError names the row.

        `base` [N] are the rows' mean losses at the present parameters, in float32, for who has
        just trained on them: one-sided differences then need one forward pass per query.
        """
        forms = _forms(prepared)
        if base is None and any(form.name == "one_sided" for form in forms):
            base = row_losses(view, rows, {}, 0.0)
        if base is not None and base.shape != (len(rows.rows),):
            raise ValueError(f"base is {list(base.shape)}; give one loss per row, {len(rows.rows)}")
        total = torch.zeros(len(rows.rows), len(forms), dtype=torch.float64)
        for name, precision in BY_HOOKS.items():
            exact = [q for q, form in enumerate(forms) if form.name == name]
            if exact:
                total[:, exact] = self._by_hooks(view, rows, prepared, exact, precision)
        for q, form in enumerate(forms):
            if form.name not in BY_HOOKS:
                total[:, q] = self._column(view, rows, prepared, q, base)
        refuse_non_finite(view, rows, "the derivative of its loss along a query", total)
        if self.reduction == "sum":
            total *= rows.mask.sum(1).double().cpu()[:, None]
        return Scores(total, about={**self.about(), **self._coverage(view), **_told(forms)})

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        left_out = ("kind", "chunk_rows", "modules")
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in left_out}
        facts |= {"estimator": self.kind, "approximates": "grad_dot"}
        facts["modules"] = " ".join(self.modules) or "all parameters"
        if self.difference == "forward":
            facts["attention"] = "eager, on a copy"
        sign = "positive: training on the row lowers the query's loss"
        return {**facts, "query_reduction": "mean", "sign": sign}

    def _names(self, view: View) -> list[str]:
        names = [name for name, _ in view.model.named_parameters()]
        if not self.modules:
            return names
        uses = choose(view.model, self.modules, self.last_blocks, self.biases)
        chosen = {name for use in uses for name in (use.weight, use.bias)}
        return [name for name in names if name in chosen]

    def _coverage(self, view: View) -> dict[str, Note]:
        if not self.modules:  # all parameters, whatever module they belong to
            return {}
        return coverage(view.model, self.modules, self.last_blocks, self.biases)

    def _form(self, view: View, rows: Batch, along: Direction) -> Form:
        if self.difference == "forward":
            return Form("forward")
        return choose_form(view, rows, along, self.difference, self.precision, self.chunk_rows)

    def _by_hooks(
        self, view: View, rows: Batch, prepared: State, exact: list[int], precision: Precision
    ) -> Tensor:
        """Return the columns [N, len(exact)], all of them from the same passes."""
        forms = _forms(prepared)
        stacked = {n: v if len(exact) == len(forms) else v[exact] for n, v in _along(prepared)}
        known = forms[exact[0]].flops if len(exact) == 1 else None

        def compute(chunk: Batch) -> Tensor:
            return by_hooks(view.model, chunk, stacked, precision)

        return billed(view, rows, self.chunk_rows, compute, known).cpu()

    def _column(
        self, view: View, rows: Batch, prepared: State, q: int, base: Tensor | None
    ) -> Tensor:
        along, form = {name: v[q] for name, v in _along(prepared)}, _forms(prepared)[q]
        if form.name == "forward":
            return in_forward_mode(view, rows, along, self.chunk_rows)
        if form.name == "central_bfloat16":
            return in_bfloat16(view, rows, along, form.eps, self.chunk_rows)
        difference: Difference = "central" if form.name == "central" else "one_sided"
        return derivative(view, rows, along, form.eps, difference, base)


def _gradient(view: View, query: Batch, weights: Tensor, names: list[str]) -> Direction:
    """Return the gradient of sum_r weights[r] * (mean loss of query row r).

    Rows of one weight and one count of targets go together: their mean is the mean over targets.
    """
    counts = query.mask.sum(1).double().cpu()
    groups = torch.stack([weights, counts], 1)[(weights > 0) & (counts > 0)]
    parts: list[Direction] = []
    shares: list[float] = []
    for group in groups.unique(dim=0):  # type: ignore[no-untyped-call]
        members = (weights == group[0]) & (counts == group[1])
        rows = query.select(members.to(query.rows.device))
        gradient = view.gradient(rows)
        for name in names:
            if not all_finite(gradient[name]):
                refuse_non_finite(view, rows, "a query's loss", row_losses(view, rows, {}, 0.0))
                refuse_non_finite(view, rows, name, gradient[name][None])
        parts.append({name: gradient[name] for name in names})
        shares.append(float(group[0]) * int(members.sum()))
    if not parts:
        raise ValueError("a query without counted targets has no direction")
    return weighted_sum(parts, shares)


def _along(prepared: State) -> list[tuple[str, Tensor]]:
    return [(k.removeprefix("along:"), v) for k, v in prepared.items() if k.startswith("along:")]


def _forms(prepared: State) -> list[Form]:
    columns = [
        prepared[name].tolist() for name in ("eps", "relative_step", "disagreement", "flops")
    ]
    numbers = zip(prepared["form"].tolist(), *columns, strict=True)
    return [Form(FORMS[form], *rest) for form, *rest in numbers]


def _told(forms: list[Form]) -> dict[str, Note]:
    return {
        "form": " ".join(form.name for form in forms),
        "relative_step": [form.relative for form in forms],
        "step_disagreement": [form.disagreement for form in forms],
    }
