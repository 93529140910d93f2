"""Query gradients of low rank: memory for accuracy, and the loss of accuracy measured.

A prepared query is one matrix [L, R] per parameter, as large as the model for each query. Its best
approximation of rank r, left^T right with left [r, L] and right [r, R], takes r (L + R) numbers
instead of L R: what makes many queries fit beside a large model. It is taken after the
preconditioner, as kronfluence's `query_gradient_low_rank` is. It saves memory, hardly ever time.

Matrices of small rank are decomposed exactly, others by subspace iteration from a keyed start, of
which the price is a slightly worse approximation; `agreement` tells what either has cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

EXACT = 4  # ranks up to a quarter of a matrix's smaller side are found by subspace iteration
OVERSAMPLED = 8  # Halko, Martinsson and Tropp, arXiv:0909.4061, section 4.2: 5 or 10
ROUNDS = 3  # of power iteration, section 4.5: for spectra that fall slowly


def low_rank(prepared: State, rank: int) -> State:
    """Return the state with every query gradient at most of this rank, as `left:P`, `right:P`.

    Biases, and matrices that factors would make larger, stay as they are.
    """
    state: State = {}
    for name, value in prepared.items():
        kind, _, parameter = name.partition(":")
        if kind == "query" and _pays(value, rank):
            left, right = factored(value, rank, parameter)
            state |= {f"left:{parameter}": left, f"right:{parameter}": right}
        elif kind == "left" and value.shape[1] > rank:
            whole = torch.bmm(value.mT, prepared[f"right:{parameter}"])
            left, right = factored(whole, rank, parameter)
            state |= {name: left, f"right:{parameter}": right}
        elif name not in state:
            state[name] = value
    return state


def _pays(gradient: Tensor, rank: int) -> bool:
    _, rows, columns = gradient.shape
    return rank * (rows + columns) < rows * columns and min(rows, columns) > rank


def factored(gradient: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor]:
    """Return left [Q, r, L] and right [Q, r, R] of gradients [Q, L, R], one query at a time."""
    lefts, rights = zip(*(_one(matrix.float(), rank, name) for matrix in gradient), strict=True)
    return torch.stack(lefts), torch.stack(rights)


def _one(matrix: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor]:
    if EXACT * rank > min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return (left[:, :rank] * values[:rank]).T.contiguous(), right[:rank].contiguous()
    keyed = generator(0, "low rank", name)
    start = torch.randn(matrix.shape[1], rank + OVERSAMPLED, generator=keyed).to(matrix)
    basis = torch.linalg.qr(matrix @ start).Q  # [L, r + 8]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return ((basis @ left[:, :rank]) * values[:rank]).T.contiguous(), right[:rank].contiguous()


def joined(blocks: list[State]) -> State:
    """Return the states of several blocks of queries as one."""
    if len(blocks) == 1:
        return blocks[0]
    dense = {name for block in blocks for name in block if name.startswith("query:")}
    blocks, state = [_made_whole(block, dense) for block in blocks], {}
    for name, value in blocks[0].items():
        kind = name.partition(":")[0]
        if kind not in ("query", "left", "right", "norms"):
            state[name] = value
            continue
        parts = [block[name] for block in blocks]
        if kind in ("left", "right"):
            longest = max(part.shape[1] for part in parts)
            parts = [_padded(part, longest) for part in parts]
        state[name] = torch.cat(parts)
    return state


def _made_whole(block: State, dense: set[str]) -> State:
    """Return a block whose factors are multiplied where another block has the product.

    Which of them `prepare` keeps goes by the number of queries, and the last block has fewer.
    """
    state = dict(block)
    for name in sorted(dense - block.keys()):
        parameter = name.removeprefix("query:")
        left, right = state.pop(f"left:{parameter}"), state.pop(f"right:{parameter}")
        state[name] = torch.bmm(left.mT, right)
    return state


def _padded(part: Tensor, length: int) -> Tensor:
    """Return factors [Q, S, L] with zeros up to S = length, which change no product."""
    return torch.nn.functional.pad(part, (0, 0, 0, length - part.shape[1]))


def prepared_at_rank(
    estimator: Any, view: View, fitted: State, query: Batch, rank: int, block: int
) -> State:
    """Return what `prepare` returns, at a rank, with at most `block` queries whole at a time."""
    places = range(0, len(query.rows), block)
    blocks = [query.select(slice(i, i + block)) for i in places]
    return joined([low_rank(estimator.prepare(view, fitted, rows), rank) for rows in blocks])


def agreement(
    estimator: Any, view: View, fitted: State, query: Batch, rows: Batch, rank: int
) -> list[float]:
    """Return, by query, the Spearman correlation of scores at this rank and at full rank."""
    from scipy import stats

    whole = estimator.prepare(view, fitted, query)
    plain = replace(estimator, detail=())
    full, short = (plain.score(view, p, rows).total for p in (whole, low_rank(whole, rank)))
    return [
        float(stats.spearmanr(full[:, q], short[:, q]).statistic) for q in range(len(query.rows))
    ]
