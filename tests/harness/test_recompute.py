"""Gradient checkpointing: less is kept, the bits of a step are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from harness.errors import SpecError
from harness.model import build_model, token_losses
from harness.recompute import Recomputing
from harness.spec import Batching, Model
from tests.tiny import MakeLoop, MakeSpec

SHAPES = {
    "gpt2": {"n_layer": 4, "n_embd": 32, "n_head": 2},
    "llama": {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 2},
}


@pytest.mark.parametrize("architecture", SHAPES)
def test_gradients_are_equal_to_the_bit_and_less_is_kept(
    architecture: str, make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    spec = Model(architecture=architecture, config=SHAPES[architecture])  # type: ignore[arg-type]
    batch = make_loop(make_spec()).view.candidates(4)
    found, kept = [], []
    for wraps in (nn.Sequential, Recomputing):
        model = build_model(spec, 512, 32, seed=0)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        network = model if wraps is nn.Sequential else Recomputing(model)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = token_losses(network, batch).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in model.named_parameters()})
        kept.append(sum(sizes))
        assert not any(module.training for module in model.modules())

    for name, gradient in found[0].items():
        assert gradient is not None
        assert torch.equal(gradient, found[1][name])
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_takes_the_same_steps(
    precision: Literal["float32", "bfloat16"], make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Through the loop, in micro-batches."""
    ends = []
    for recompute in (False, True):
        spec = make_spec(batch=Batching(rows=8, tokens=32, micro_rows=4, recompute=recompute))
        loop = make_loop(replace(spec, num_steps=3, precision=precision))
        loop.run()
        ends.append(loop.view.model.state_dict())

    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name])


def test_a_model_that_cannot_is_refused() -> None:
    with pytest.raises(SpecError, match=r"batch\.recompute: Linear has no blocks"):
        Recomputing(nn.Linear(2, 2))
