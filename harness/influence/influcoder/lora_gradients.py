"""Row gradients of a seeded adapter, sketched: what Influcoder's encoder learns to predict.

A fresh LoRA adapter (peft) is laid on a copy of the model. Its B matrices are zero, so the copy
computes what the model does and only the gradients of B are not zero: by B [out, r] a row's is
sum_t s (dL/dy_t) (A x_t)^T with s = alpha / r = 2. The engine's hooks sit on the B layers alone, so
one pass gives both factors of every row of a chunk, and no gradient of A or of a frozen weight is
formed. Each is added into a CountSketch and the sum is scaled to length 1.

The price: influence is seen through a random r-dimensional window on each layer's input and then
through the sketch's noise, 1 / sqrt(dims) in a cosine. There are no second moments for an adapter
that was never trained, so these are plain gradients, without Adam's factor. A row's loss is the
mean over its counted targets; a cosine does not see the difference to the sum. Source of the form:
arXiv:2606.13668 (r = 8, alpha = 2r, dropout 0, all linear layers, 8192 dimensions).
Deviations: one backward pass per chunk instead of one per row; float32 instead of bfloat16.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.influence.factors import Factors, materialised
from harness.influence.flops import billed
from harness.influence.gradients import refuse_non_finite
from harness.influence.projections import CountSketch
from harness.influence.row_gradients import backward
from harness.influence.selection import Use, choose
from harness.rng import key

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, View

ADAPTER_B = r"\.lora_B\."  # as peft names the layers whose gradients are taken
ALPHA_OVER_RANK = 2  # alpha = 2r, arXiv:2606.13668


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Which adapter, and what its row gradients become."""

    rank: int = 8
    dims: int = 8192
    """Dimensions of the sketch; 0 keeps the gradients whole, for tests and small models."""
    modules: tuple[str, ...] = ("linear",)
    last_blocks: int = 0
    seed: int = 0


class Adapted(NamedTuple):
    """A copy of the model with the adapter on it, and the layers that are hooked."""

    model: nn.Module
    uses: list[Use]


def adapted(model: nn.Module, adapter: Adapter) -> Adapted:
    """Return a copy of the model in evaluation mode, with a seeded adapter on it."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise _missing("peft") from error
    kinds = {use.name: use.kind for use in choose(model, adapter.modules, adapter.last_blocks)}
    if "embedding" in kinds.values():
        raise ValueError(
            f"modules: {' '.join(adapter.modules)} takes in an embedding; adapters go on linear "
            'layers, such as ("linear",)'
        )
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=ALPHA_OVER_RANK * adapter.rank,
        lora_dropout=0.0,
        target_modules=list(kinds),
        fan_in_fan_out="conv1d" in kinds.values(),  # Conv1D keeps its weight as [in, out]
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator, on the CPU
        torch.default_generator.manual_seed(key(adapter.seed, "influcoder adapter"))
        copied: Any = inject_adapter_in_model(config, copy.deepcopy(model))
    copied.requires_grad_(False).eval()
    return Adapted(copied, choose(copied, (ADAPTER_B,), biases=False))


def row_features(view: View, adapter: Adapter, on: Adapted, rows: Batch, chunk_rows: int) -> Tensor:
    """Return features [N, dims] float32 of length 1, on the model's device.

    A row without counted targets has zeros. FloatingPointError names the first row with a gradient
    that is not finite, or with targets and none.
    """
    return billed(view, rows, chunk_rows, lambda chunk: _features(view, adapter, on, chunk))


def cosines(
    view: View, adapter: Adapter, on: Adapted, rows: Batch, queries: Tensor, chunk_rows: int
) -> Tensor:
    """Return cosines [Q, N] of query features [Q, dims] with rows; no [N, dims] is kept."""

    def of_chunk(chunk: Batch) -> Tensor:
        return _features(view, adapter, on, chunk) @ queries.T  # [chunk, Q]

    return billed(view, rows, chunk_rows, of_chunk).T


def _features(view: View, adapter: Adapter, on: Adapted, rows: Batch) -> Tensor:
    sketch_key = key(adapter.seed, "influcoder sketch")
    sketch = CountSketch(adapter.dims, sketch_key) if adapter.dims else None
    parts: dict[str, Tensor] = {}

    def receive(name: str, factors: list[Factors]) -> None:
        gradient = materialised(factors[0])[0]  # [B, out, r]
        refuse_non_finite(view, rows, name, gradient)
        if sketch is None:
            parts[name] = gradient.flatten(1)
            return
        share = sketch.project(name, gradient)  # [B, dims]
        parts[""] = parts[""].add_(share) if parts else share

    losses = backward(on.model, rows, on.uses, receive, "mean")
    refuse_non_finite(view, rows, "loss", losses)
    total = torch.cat([parts[name] for name in sorted(parts)], 1)
    norms = total.norm(dim=1, keepdim=True)  # [B, 1]
    empty = (norms == 0) & rows.mask.any(1, keepdim=True)
    what = "its adapter gradient, which is zero although targets count"
    refuse_non_finite(view, rows, what, norms.where(~empty, torch.nan))
    unit: Tensor = total / norms.where(norms > 0, 1.0)
    return unit


def _missing(package: str) -> ImportError:
    return ImportError(f'influcoder needs {package}: pip install "steelyard[influcoder]"')
