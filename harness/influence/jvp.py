"""Embeddings of rows by forward-mode derivatives: how a row's hidden state answers to weights.

For shared random tangents V_j of every parameter of a model's first blocks, embeddings included,
a row's embedding is J(x) V_j, j = 1 to num_tangents, side by side: the derivative of its pooled
hidden state along V_j. No label and no loss enters, and no Jacobian is formed. One forward pass
serves all tangents: 1 + 2 num_tangents forward passes of those blocks for each row, where one pass
per tangent would be 3 num_tangents. Source: arXiv:2505.19051 and its released code.

The tangents are a function of (seed, j, parameter name): the same for all rows, processes and
refreshes, and for the embeddings and first blocks whatever the number of layers.
Shapes: B rows, T tokens, H hidden, V tangents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from harness import rng
from harness.influence.derivatives import Functional
from harness.influence.trunk import hidden_states, pooled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch

Pooling = Literal["last", "mean"]


def tangents_of(trunk: nn.Module, num_tangents: int, seed: int) -> dict[str, Tensor]:
    """Return standard normal tangents [V, *parameter.shape] by parameter name."""
    return {
        name: torch.stack(
            [
                torch.randn(parameter.shape, generator=rng.generator(seed, "tangent", j, name)).to(
                    parameter
                )
                for j in range(num_tangents)
            ]
        )
        for name, parameter in trunk.named_parameters()
    }


def jvp_embeddings(
    trunk: nn.Module, rows: Batch, tangents: dict[str, Tensor], pooling: Pooling
) -> Tensor:
    """Return J(x) V for each row [B, V H]; the trunk's attention must be written out.

    Zero for a row in which no token counts.
    """
    parameters = {name: parameter.detach() for name, parameter in trunk.named_parameters()}

    def embed(given: dict[str, Tensor]) -> Tensor:
        return pooled(hidden_states(Functional(trunk, given), rows.inputs), rows, pooling)

    def derivative(tangent: dict[str, Tensor]) -> Tensor:
        along: Tensor = torch.func.jvp(embed, (parameters,), (tangent,))[1]
        return along

    with torch.no_grad():
        found: Tensor = torch.func.vmap(derivative)(tangents)  # [V, B, H]
    return found.transpose(0, 1).flatten(1)
