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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness.api import Scores
from harness.influence.directional import adam_scale
from harness.influence.factors import Factors, materialised, prefers_ghost, products, summed
from harness.influence.row_gradients import Precision, Reduction, backward
from harness.influence.selection import Use, choose

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, Note, State, View


@dataclass(frozen=True, kw_only=True)
class _Gradients:
    """What the three estimators share: which gradients are taken, and how."""

    modules: tuple[str, ...] = ("linear",)
    """"linear", "mlp", "all", or regular expressions; see harness/influence/selection.py."""
    last_blocks: int = 0
    """Only the last n blocks; 0 keeps all."""
    biases: bool = True
    """Whether the biases of the chosen modules count."""
    preconditioner: Literal["adam", "none"] = "adam"
    """Adam's live second moments, frozen; or plain gradients."""
    queries: Literal["each", "mean"] = "each"
    """One query per query row, or one query whose loss is the mean over query rows."""
    precision: Precision = "float32"
    """What the network computes in; dot products are float32."""
    chunk_rows: int = 16
    """Rows per backward pass; scores do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.chunk_rows < 1:
            raise ValueError(f"chunk_rows is {self.chunk_rows}; give at least 1")

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
        facts: dict[str, Any] = {k: v for k, v in asdict(self).items() if k != "chunk_rows"}
        facts["modules"] = " ".join(self.modules)
        name = {"GradDot": "grad_dot", "GradCos": "grad_cos", "Group": "group"}[type(self).__name__]
        return {"estimator": name, "query_reduction": "mean", **facts}

    def _uses(self, view: View) -> list[Use]:
        return choose(view.model, self.modules, self.last_blocks, self.biases)

    def _products(
        self, view: View, prepared: State, rows: Batch, reduction: Reduction, squares: bool
    ) -> tuple[Tensor, Tensor]:
        """Return dots [N, Q] and squares of scaled gradients [N] (0 unless asked), float64, CPU."""
        uses, parts = self._uses(view), []
        for chunk in _chunks(rows, self.chunk_rows):
            dots: dict[str, Tensor] = {}
            lengths: dict[str, Tensor] = {}
            flops = [float(prepared["flops"]) * len(chunk.rows)]

            def receive(
                name: str,
                factors: list[Factors],
                dots: dict[str, Tensor] = dots,
                lengths: dict[str, Tensor] = lengths,
                flops: list[float] = flops,
            ) -> None:
                query, scale = _query_of(prepared, name), prepared.get(f"scale:{name}")
                found = products(factors, query, scale, squares)
                value = found.dots.double().cpu()
                dots[name] = dots[name] + value if name in dots else value
                if found.squares is not None:
                    lengths[name] = found.squares.double().cpu()
                flops.append(found.flops)

            losses = backward(
                view.model, chunk, uses, receive, reduction, self.precision, together=squares
            )
            view.bill(sum(flops), chunk.targets.numel())
            for name, values in {"loss": losses, **dots, **lengths}.items():
                refuse_non_finite(view, chunk, name, values)
            zero = torch.zeros(len(chunk.rows), dtype=torch.float64)
            total = sum(dots.values(), torch.zeros(len(zero), _num_queries(prepared)).double())
            parts.append((total, sum(lengths.values(), zero)))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@dataclass(frozen=True, kw_only=True)
class GradDot(_Gradients):
    """Exact dot products of row and query gradients."""

    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets. Scores of one give the other."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return <g_i, a g_q> [N, Q] float64 on the CPU; FloatingPointError names row, module."""
        total, _ = self._products(view, prepared, rows, self.reduction, squares=False)
        return Scores(total, about=self.about())


@dataclass(frozen=True, kw_only=True)
class GradCos(_Gradients):
    """Cosines of row steps and query gradients; a row's loss needs no reduction here."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return cosines [N, Q] float64 on the CPU; FloatingPointError names row and module."""
        dots, squares = self._products(view, prepared, rows, "mean", squares=True)
        lengths = squares.sqrt()[:, None] * prepared["norms"].cpu()
        return Scores((dots / lengths).where(lengths > 0, 0.0), about=self.about())


@dataclass(frozen=True, kw_only=True)
class Group(_Gradients):
    """The exact signal of a domain: the dot product of its rows' mean gradient.

    Every row carries its domain's score, so a mean over rows by domain is the score again. Dot
    products are linear, so the rows' own are averaged and no mean gradient is stored.
    """

    reduction: Reduction = "mean"
    """The row's loss: mean or sum over its counted targets."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return <mean of g_j over the domain of i, a g_q> [N, Q] float64, on the CPU."""
        dots, _ = self._products(view, prepared, rows, self.reduction, squares=False)
        _, index = rows.domains.cpu().unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums = torch.zeros(int(index.max()) + 1, dots.shape[1], dtype=dots.dtype)
        means = sums.index_add(0, index, dots) / index.bincount()[:, None]
        return Scores(means[index], about=self.about())


def with_reduction(scores: Scores, rows: Batch, reduction: Reduction) -> Scores:
    """Return grad_dot's scores of `rows` for the other reduction of a row's loss."""
    if scores.about.get("estimator") != "grad_dot":
        raise ValueError(
            f"only grad_dot's scores convert, not those of {scores.about.get('estimator')!r}"
        )
    if scores.about["reduction"] == reduction:
        return scores
    count = rows.mask.sum(1).clamp(min=1).double().cpu()[:, None]
    total = scores.total * count if reduction == "sum" else scores.total / count
    return Scores(total, about={**scores.about, "reduction": reduction})


def refuse_non_finite(view: View, rows: Batch, what: str, values: Tensor) -> None:
    """Raise FloatingPointError that names the first row and the module with such a value."""
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    if len(bad):
        first = int(bad[0])
        row, domain = int(rows.rows[first]), view.probe_domains[int(rows.domains[first])]
        where = f"row {row} of domain {domain!r} at step {view.step}"
        raise FloatingPointError(f"influence of {where} is not finite in {what}")


class _Preparation:
    """One pass over the query rows."""

    def __init__(self, view: View, uses: list[Use], options: _Gradients, query: Batch) -> None:
        self.view, self.uses, self.options, self.query = view, uses, options, query
        self.num_queries = 1 if options.queries == "mean" else len(query.rows)
        self.adam = adam_scale(view) if options.preconditioner == "adam" else {}
        self.shared = Counter(n for use in uses for n in (use.weight, use.bias) if n)
        self.gradients: dict[str, Tensor] = {}
        self.factors: dict[str, list[Factors]] = {}
        self.flops, self.start = 0.0, 0

    def state(self) -> State:
        """Take the gradients and return them, preconditioned."""
        network = 0.0
        for chunk in _chunks(self.query, self.options.chunk_rows):
            with _counter() as counter:
                before = self.flops
                losses = backward(
                    self.view.model, chunk, self.uses, self.receive, "mean", self.options.precision
                )
            network += counter.get_total_flops() - (self.flops - before)
            refuse_non_finite(self.view, chunk, "loss", losses)
            self.start += len(chunk.rows)
        self.view.bill(network + self.flops, self.query.targets.numel())
        state = {"flops": torch.tensor(network / len(self.query.rows), dtype=torch.float64)}
        return {**state, **self._held()}

    def receive(self, name: str, factors: list[Factors]) -> None:
        """Put one module's part of some query rows in its place."""
        (use,) = factors
        each = self.options.queries == "each"
        alone = self.shared[name] == 1 and not self.adam
        if each and alone and prefers_ghost(use, self.num_queries):
            # copies: autograd's own buffers would keep more alive than these
            kept = Factors(use.left.float().clone(), use.right.float().clone(), use.size)
            self.factors.setdefault(name, []).append(kept)
            return
        if name not in self.gradients:
            size, dtype = (self.num_queries, use.size, use.right.shape[-1]), torch.float32
            dtype = torch.float64 if use.right.dtype == torch.float64 else dtype
            self.gradients[name] = torch.zeros(size, dtype=dtype, device=use.right.device)
        value, flops = materialised(use) if each else summed(use)
        self.flops += flops
        if each:
            self.gradients[name][self.start : self.start + len(value)] += value
        else:
            self.gradients[name][0] += value / len(self.query.rows)

    def _held(self) -> State:
        state: State = {}
        squares = torch.zeros(self.num_queries, dtype=torch.float64)
        for name, gradient in self.gradients.items():
            refuse = gradient if self.options.queries == "each" else gradient[0][None]
            refuse_non_finite(self.view, self.query, name, refuse)
            squares += gradient.flatten(1).double().square().sum(1).cpu()
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


def _chunks(rows: Batch, size: int) -> list[Batch]:
    return [rows.select(slice(i, i + size)) for i in range(0, len(rows.rows), size)]


def _counter() -> Any:
    """Return torch's counter, with the one attention kernel of the CPU that it leaves out."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def back(out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(out, query, key, value))  # type: ignore[no-untyped-call]

    mapping: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: back,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)
