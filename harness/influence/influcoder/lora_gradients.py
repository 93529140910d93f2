"""Row gradients of a seeded adapter, sketched: what Influcoder's encoder learns to predict.

A fresh LoRA adapter (peft) has B matrices of zeros, so the model with it computes what the model
without it does, and only the gradients of B are not zero: by B [out, r] a row's is
sum_t s (dL/dy_t) (A x_t)^T with s = alpha / r = 2. Its terms are the input x and the output's
gradient of the layer that the adapter would lie on. So peft draws A, and the passes go through the
model itself: the engine's hooks sit on its layers, and no adapter's product and no gradient of a
weight is formed. Each gradient is added into a CountSketch and the sum is scaled to length 1.

The price: influence is seen through a random r-dimensional window on each layer's input and then
through the sketch's noise, 1 / sqrt(dims) in a cosine. There are no second moments for an adapter
that was never trained, so these are plain gradients, without Adam's factor. A row's loss is the
mean over its counted targets; a cosine does not see the difference to the sum. Source of the form:
arXiv:2606.13668 (r = 8, alpha = 2r, dropout 0, all linear layers, 8192 dimensions, bfloat16).
Deviations: one backward pass per chunk instead of one per row; float32 unless bfloat16 is asked
for, which changes a feature by a cosine of some 3e-5.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.influence.factors import Factors
from harness.influence.finite import refuse_non_finite
from harness.influence.flops import billed, counter
from harness.influence.row_gradients import Precision, backward
from harness.influence.selection import Use, choose
from harness.rng import key

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, View
    from harness.influence.kinds import Kind

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
    precision: Precision = "float32"
    """What the network and each layer's gradient are computed in; layers are added in float32."""


class Adapted(NamedTuple):
    """The model, its layers under the names of the B matrices that would lie on them, and the As.

    The As [r, in] are by the same names; `costs` are FLOPs of a row's pass by its tokens, as far as
    they are known (which a sketch adds nothing to).
    """

    model: nn.Module
    uses: list[Use]
    windows: dict[str, Tensor]
    costs: dict[int, float]


def adapted(model: nn.Module, adapter: Adapter) -> Adapted:
    """Return the model with what a seeded adapter on it adds to its layers."""
    parameters = dict(adapted_copy(model, adapter).named_parameters())
    uses, windows = [], {}
    for use in _chosen(model, adapter):
        name = f"{use.name}.lora_B.default.weight"  # peft's
        uses.append(use._replace(weight=name, bias=""))
        windows[name] = parameters[f"{use.name}.lora_A.default.weight"].detach()
    return Adapted(model, uses, windows, {})


def adapted_copy(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Return a copy of the model in evaluation mode, with the adapter on it as peft lays it."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise _missing("peft") from error
    uses = _chosen(model, adapter)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=ALPHA_OVER_RANK * adapter.rank,
        lora_dropout=0.0,
        target_modules=[use.name for use in uses],
        fan_in_fan_out=any(use.kind == "conv1d" for use in uses),  # it keeps weights as [in, out]
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator, on the CPU
        torch.default_generator.manual_seed(key(adapter.seed, "influcoder adapter"))
        copied: Any = inject_adapter_in_model(config, copy.deepcopy(model))
    return copied.requires_grad_(False).eval()  # type: ignore[no-any-return]


def _chosen(model: nn.Module, adapter: Adapter) -> list[Use]:
    uses = choose(model, adapter.modules, adapter.last_blocks)
    if any(use.kind == "embedding" for use in uses):
        raise ValueError(
            f"modules: {' '.join(adapter.modules)} takes in an embedding; adapters go on linear "
            'layers, such as ("linear",)'
        )
    return uses


def row_features(view: View, adapter: Adapter, on: Adapted, rows: Batch, chunk_rows: int) -> Tensor:
    """Return features [N, dims] float32 of length 1, on the model's device.

    At most `chunk_rows` rows are in a pass; 0: as many as harness/influence/flops.py says. A row
    without counted targets has zeros. FloatingPointError names the first row with a gradient that
    is not finite, or with targets and none.
    """
    cost = _cost(view, adapter, on, rows)
    return billed(view, rows, chunk_rows, lambda chunk: _features(view, adapter, on, chunk), cost)


def cosines(
    view: View, adapter: Adapter, on: Adapted, rows: Batch, queries: Tensor, chunk_rows: int
) -> Tensor:
    """Return cosines [Q, N] of query features [Q, dims] with rows; no [N, dims] is kept."""

    def of_chunk(chunk: Batch) -> Tensor:
        return _features(view, adapter, on, chunk) @ queries.T  # [chunk, Q]

    cost = _cost(view, adapter, on, rows) + 2.0 * queries.numel()
    return billed(view, rows, chunk_rows, of_chunk, cost).T


def _cost(view: View, adapter: Adapter, on: Adapted, rows: Batch) -> float:
    """Return the FLOPs of a row's features, counted on one row of that length, which is billed."""
    tokens = rows.inputs.shape[1]
    if tokens not in on.costs:
        with counter() as counted:
            _features(view, adapter, on, rows.select(slice(0, 1)))
        on.costs[tokens] = float(counted.get_total_flops())
        view.bill(on.costs[tokens], tokens)
    return on.costs[tokens]


def _features(view: View, adapter: Adapter, on: Adapted, rows: Batch) -> Tensor:
    from harness.influence.projections import CountSketch  # it imports torch at once

    sketch_key = key(adapter.seed, "influcoder sketch")
    sketch = CountSketch(adapter.dims, sketch_key) if adapter.dims else None
    parts: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}  # [B], looked at after the pass: to name a module takes another
    kinds = {use.weight: use.kind for use in on.uses}

    def receive(name: str, factors: list[Factors]) -> None:
        gradient = _of_b(factors[0], on.windows[name], kinds[name])
        largest[name] = gradient.abs().amax((1, 2))
        if sketch is None:
            parts[name] = gradient.flatten(1)
            return
        share = sketch.project(name, gradient)  # [B, dims]
        parts[""] = parts[""].add_(share) if parts else share

    losses = backward(on.model, rows, on.uses, receive, "mean", adapter.precision)
    for what, values in {**largest, "loss": losses}.items():
        refuse_non_finite(view, rows, what, values)
    total = torch.cat([parts[name] for name in sorted(parts)], 1)
    norms = total.norm(dim=1, keepdim=True)  # [B, 1]
    empty = (norms == 0) & rows.mask.any(1, keepdim=True)
    what = "its adapter gradient, which is zero although targets count"
    refuse_non_finite(view, rows, what, norms.where(~empty, torch.nan))
    unit: Tensor = total / norms.where(norms > 0, 1.0)
    return unit


def _of_b(factors: Factors, window: Tensor, kind: Kind) -> Tensor:
    """Return each row's gradient by B [B, out, r], from the factors of the layer's own weight."""
    given, gradient = (factors.left, factors.right)[:: 1 if kind == "conv1d" else -1]
    seen = torch.nn.functional.linear(given, window.to(given.dtype))  # [B, T, r]
    product = torch.bmm(gradient.mT, seen)  # a bfloat16 sum is of float32, and rounded at its end
    return ALPHA_OVER_RANK * product.to(torch.promote_types(product.dtype, torch.float32))


def _missing(package: str) -> ImportError:
    return ImportError(f'influcoder needs {package}: pip install "steelyard[influcoder]"')
