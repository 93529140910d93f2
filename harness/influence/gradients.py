"""Exact influence from row gradients: N rows by Q queries, their cosines, and means of domains.

    grad_dot  <g_i, a g_q>: to first order, what a step on row i takes off the query's loss, per
              unit of learning rate, in nats
    grad_cos  <a g_i, g_q> / (|a g_i| |g_q|): the cosine of the row's step and the query's gradient
              over all chosen parameters together. The row is normalised after the preconditioner,
              the query's gradient is never preconditioned; 0 where either has no length.
    group     grad_dot of the mean gradient of the row's domain among the rows given

a is 1, or Adam's factor from the second moments at `prepare` (harness/influence/directional.py).
Positive: training on the row lowers the query's loss. A query's loss is the mean over its counted
targets; a row's loss the mean or the sum (`reduction`). Left out, as in directional: clipping,
momentum, weight decay, and what a row does to the second moments.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.api import Scores
from harness.influence.directional import adam_scale
from harness.influence.factors import (
    Factors,
    Room,
    materialised,
    prefers_ghost,
    products,
    summed,
)
from harness.influence.finite import refuse_non_finite
from harness.influence.flops import chunks, counter
from harness.influence.parts import Detail, Gather, Gathered, joined, module_names, whole
from harness.influence.queries import Queries, query_weights
from harness.influence.row_gradients import Precision, Reduction, backward
from harness.influence.selection import Use, choose, coverage, largest
from harness.transfer import Outbound

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Gradients:
    """What the three estimators share: which gradients are taken, and how."""

    kind: str = ""
    """The name of the estimator."""
    modules: tuple[str, ...] = ("linear",)
    """"linear", "mlp", "all", or regular expressions; see harness/influence/selection.py."""
    last_blocks: Annotated[int, Field(strict=True, ge=0)] = 0
    """Only the last n blocks; 0 keeps all."""
    biases: Annotated[bool, Field(strict=True)] = True
    """Whether the biases of the chosen modules count."""
    preconditioner: Literal["adam", "none"] = "adam"
    """Adam's live second moments, frozen; or plain gradients."""
    queries: Queries = "each"
    """One query per query row; one whose loss is their mean; or the run's target."""
    precision: Precision = "float32"
    """What the network computes in, and a single query's products with it; sums are float32."""
    chunk_rows: Annotated[int, Field(strict=True, ge=0)] = 0
    """Rows per backward pass, which share one reading of the queries; scores do not depend on it.
    0: as many as have 4,096 tokens (on a GPU 16,384), at most 64, or 16 of large parameters."""

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return nothing: gradients are taken anew for each model."""
        return {}

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return query gradients by parameter, and what a row's pass costs.

        `query:P` is [Q, *P], or `left:P` and `right:P` are the factors that short rows are better
        served with; `norms` [Q] are of the plain gradients; `scale:P` is Adam's factor.
        """
        return _Preparation(view, self._uses(view), self, query).state()

    def about(self) -> dict[str, Note]:
        """Return what a score of this estimator means, for records and reports."""
        left_out = ("kind", "chunk_rows", "detail")
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in left_out}
        facts |= {"estimator": self.kind, "approximates": self.kind}
        facts["modules"] = " ".join(self.modules)
        sign = "positive: training on the row lowers the query's loss"
        facts.setdefault("reduction", "mean")  # of a cosine, to which it makes no difference
        return {**facts, "query_reduction": "mean", "sign": sign}

    def _uses(self, view: View) -> list[Use]:
        return choose(view.model, self.modules, self.last_blocks, self.biases)

    def _coverage(self, view: View) -> dict[str, Note]:
        return coverage(view.model, self.modules, self.last_blocks, self.biases)

    def _products(
        self,
        view: View,
        prepared: State,
        rows: Batch,
        reduction: Reduction,
        squares: bool,
        detail: tuple[Detail, ...] = (),
    ) -> Gathered:
        """Return dots with the queries and, where asked for, squares and parts."""
        uses, parts, room = self._uses(view), [], Room()
        biases = {use.bias for use in uses}
        tokens, num_queries = rows.targets.shape[1], _num_queries(prepared)
        for chunk in chunks(rows, self.chunk_rows, largest(uses)):
            gather = Gather(uses, detail, len(chunk.rows), tokens, num_queries)
            arriving: list[tuple[str, Outbound, Outbound | None]] = []  # the pass waits for none
            lengths: dict[str, Tensor] = {}
            flops = [float(prepared["flops"]) * len(chunk.rows)]

            def receive(
                name: str,
                factors: list[Factors],
                gather: Gather = gather,
                arriving: list[tuple[str, Outbound, Outbound | None]] = arriving,
                flops: list[float] = flops,
            ) -> None:
                query, scale = _query_of(prepared, name), prepared.get(f"scale:{name}")
                summed_up = [whole(f) for f in factors] if name in biases else factors
                found = products(summed_up, query, scale, squares, room)
                squared = None if found.squares is None else Outbound(found.squares.double())
                arriving.append((name, Outbound(found.dots.double()), squared))
                flops += [found.flops, gather.add_tokens(factors, query)]

            losses = backward(
                view.model,
                chunk,
                uses,
                receive,
                reduction,
                self.precision,
                together=squares,
                tokens="tokens" in detail,
            )
            for name, dots, squared in arriving:
                gather.add(name, dots.read())
                if squared is not None:
                    lengths[name] = squared.read()
            view.bill(sum(flops), chunk.targets.numel())
            for name, values in {"loss": losses, **gather.dots, **lengths}.items():
                refuse_non_finite(view, chunk, name, values)
            zero = torch.zeros(len(chunk.rows), dtype=torch.float64)
            parts.append(gather.gathered(sum(lengths.values(), zero)))
        return joined(parts)

    def _scores(self, view: View, found: Gathered, detail: tuple[Detail, ...]) -> Scores:
        names = {"module_names": " ".join(module_names(self._uses(view)))} if detail else {}
        about = {**self.about(), **self._coverage(view), **names}
        return Scores(found.dots, found.modules, found.tokens, about=about)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GradDot(_Gradients):
    """Exact dot products of row and query gradients."""

    kind: Literal["grad_dot"] = "grad_dot"
    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets. Scores of one give the other."""
    detail: tuple[Detail, ...] = ()
    """Parts told beside the total: of "modules", of "tokens" (harness/influence/parts.py)."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return <g_i, a g_q> [N, Q] float64 on the CPU; FloatingPointError names row, module."""
        found = self._products(view, prepared, rows, self.reduction, False, self.detail)
        return self._scores(view, found, self.detail)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GradCos(_Gradients):
    """Cosines of row steps and query gradients; a row's loss needs no reduction here."""

    kind: Literal["grad_cos"] = "grad_cos"
    detail: tuple[Detail, ...] = ()
    """Parts told beside the total: of "modules", of "tokens" (harness/influence/parts.py)."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return cosines [N, Q] float64 on the CPU; FloatingPointError names row and module."""
        found = self._products(view, prepared, rows, "mean", True, self.detail)
        lengths = found.squares.sqrt()[:, None] * prepared["norms"].cpu()
        return self._scores(view, found.over(lengths), self.detail)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Group(_Gradients):
    """The exact signal of a domain: the dot product of its rows' mean gradient.

    Every row carries its domain's score, so a mean over rows by domain is the score again. Dot
    products are linear, so the rows' own are averaged and no mean gradient is stored.
    """

    kind: Literal["group"] = "group"
    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return <mean of g_j over the domain of i, a g_q> [N, Q] float64, on the CPU."""
        dots = self._products(view, prepared, rows, self.reduction, squares=False).dots
        _, index = rows.domains.cpu().unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums = torch.zeros(int(index.max()) + 1, dots.shape[1], dtype=dots.dtype)
        means = sums.index_add(0, index, dots) / index.bincount()[:, None]
        return Scores(means[index], about={**self.about(), **self._coverage(view)})


# Linear in a row's loss. A group's score is of the rows that came together, a landmark's of others.
CONVERTIBLE = ("grad_dot", "directional", "ekfac")


def with_reduction(scores: Scores, rows: Batch, reduction: Reduction) -> Scores:
    """Return scores of `rows` for the other reduction of a row's loss; a cosine has none."""
    if scores.about.get("estimator") not in CONVERTIBLE:
        raise ValueError(
            f"scores of {', '.join(CONVERTIBLE)} convert, not those of "
            f"{scores.about.get('estimator')!r}"
        )
    if scores.about["reduction"] == reduction:
        return scores
    count = rows.mask.sum(1).clamp(min=1).double().cpu()[:, None]
    total = scores.total * count if reduction == "sum" else scores.total / count
    return Scores(total, about={**scores.about, "reduction": reduction})


class _Preparation:
    """One pass over the query rows."""

    def __init__(self, view: View, uses: list[Use], options: _Gradients, query: Batch) -> None:
        self.view, self.uses, self.options, self.query = view, uses, options, query
        weights = query_weights(view, query, options.queries)
        self.num_queries = len(weights)
        # [rows], of the one query that is made of them; None: each row is a query
        self.weights = None if options.queries == "each" else weights[0].to(query.inputs.device)
        self.adam = adam_scale(view) if options.preconditioner == "adam" else {}
        self.shared = Counter(n for use in uses for n in (use.weight, use.bias) if n)
        self.gradients: dict[str, Tensor] = {}
        self.factors: dict[str, list[Factors]] = {}
        self.flops, self.start = 0.0, 0

    def state(self) -> State:
        """Take the gradients and return them, preconditioned."""
        per_row = 0.0
        for chunk in chunks(self.query, self.options.chunk_rows, largest(self.uses)):
            # rows have one length, so the first chunk's count is every chunk's
            first: Any = nullcontext() if self.start else counter()
            with first as counted:
                losses = backward(
                    self.view.model, chunk, self.uses, self.receive, "mean", self.options.precision
                )
            if not self.start:
                per_row = (counted.get_total_flops() - self.flops) / len(chunk.rows)
            refuse_non_finite(self.view, chunk, "loss", losses)
            self.start += len(chunk.rows)
        num_rows = len(self.query.rows)
        self.view.bill(per_row * num_rows + self.flops, self.query.targets.numel())
        return {"flops": torch.tensor(per_row, dtype=torch.float64), **self._held()}

    def receive(self, name: str, factors: list[Factors]) -> None:
        """Put one module's part of some query rows in its place."""
        (use,) = factors
        alone = self.shared[name] == 1 and not self.adam
        if self.weights is None and alone and prefers_ghost(use, self.num_queries):
            # copies: autograd's own buffers would keep more alive than these
            kept = Factors(use.left.float().clone(), use.right.float().clone(), use.size)
            self.factors.setdefault(name, []).append(kept)
            return
        dtype = torch.promote_types(use.right.dtype, torch.float32)
        once = self.weights is None and self.shared[name] == 1
        direct = once and not use.one_hot and use.right.dtype == dtype
        if name not in self.gradients:
            size = (self.num_queries, use.size, use.right.shape[-1])
            make = torch.empty if direct else torch.zeros  # gigabytes of zeros take their time
            self.gradients[name] = make(size, dtype=dtype, device=use.right.device)
        end = self.start + len(use.right)
        if direct:
            torch.bmm(use.left.mT, use.right, out=self.gradients[name][self.start : end])
            flops = 2.0 * use.right.numel() * use.size
        elif self.weights is None:
            value, flops = materialised(use)
            self.gradients[name][self.start : end] += value
        else:
            value, flops = summed(use, self.weights[self.start : end])
            self.gradients[name][0] += value
        self.flops += flops

    def _held(self) -> State:
        state: State = {}
        squares = torch.zeros(self.num_queries, dtype=torch.float64)
        for name, gradient in self.gradients.items():
            # a norm tells of every element, and reads it once
            length = torch.linalg.vector_norm(gradient.flatten(1), dim=1).double().cpu()
            rows = self.query if self.weights is None else self.query.select(slice(0, 1))
            refuse_non_finite(self.view, rows, name, length)
            squares += length.square()
            if self.adam:
                state[f"scale:{name}"] = self.adam[name].view(gradient.shape[1:]).to(gradient)
                gradient *= state[f"scale:{name}"]
            state[f"query:{name}"] = gradient
        for name, parts in self.factors.items():
            left, right = (torch.cat([p[i] for p in parts]) for i in (0, 1))  # type: ignore[misc]
            refuse_non_finite(self.view, self.query, name, right)
            own = torch.bmm(left, left.mT) * torch.bmm(right, right.mT)  # [Q, S, S]
            squares += own.double().sum((1, 2)).cpu()
            state |= {f"left:{name}": left, f"right:{name}": right}
        return {**state, "norms": squares.sqrt()}


def _query_of(prepared: State, name: str) -> Tensor | Factors:
    if f"query:{name}" in prepared:
        return prepared[f"query:{name}"]
    left = prepared[f"left:{name}"]
    return Factors(left, prepared[f"right:{name}"], left.shape[-1])


def _num_queries(prepared: State) -> int:
    return len(prepared["norms"])
