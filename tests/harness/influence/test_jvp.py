"""Forward-mode embeddings against finite differences in float64, and what they are keyed by."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Batch
from harness.influence.derivatives import Functional
from harness.influence.jvp import Pooling, jvp_embeddings, tangents_of
from harness.influence.trunk import hidden_states, pooled, trunk_of
from tests.harness.influence.test_row_gradients import build as of_any_family
from tests.harness.influence.test_row_gradients import some_rows as cut_rows
from tests.harness.influence.test_trunk import build, some_rows


def trunk(family: str, layers: int = 2) -> nn.Module:
    """Return some blocks of a small model."""
    return trunk_of(build(family), layers, attention="eager")


def differences(
    model: nn.Module, rows: Batch, tangents: dict[str, Tensor], pooling: str, step: float
) -> Tensor:
    """Return the five-point difference of pooled hidden states along each tangent [B, V H]."""
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    num_tangents = len(next(iter(tangents.values())))

    def at(j: int, eps: float) -> Tensor:
        moved = {name: own[name] + eps * tangents[name][j] for name in own}
        with torch.no_grad():
            return pooled(hidden_states(Functional(model, moved), rows.inputs), rows, pooling)

    columns = [
        (8 * (at(j, step) - at(j, -step)) - (at(j, 2 * step) - at(j, -2 * step))) / (12 * step)
        for j in range(num_tangents)
    ]
    return torch.cat(columns, 1)


class Wide:
    """The name torch with float64 for float32, which LLaMA's norms and softmax ask for."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        """Return torch's own."""
        return getattr(torch, name)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_embeddings_are_derivatives_along_the_tangents(
    family: str, pooling: Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 throughout, to eight digits."""
    monkeypatch.setattr("transformers.models.llama.modeling_llama.torch", Wide())
    model, rows = trunk(family).double(), some_rows()
    tangents = tangents_of(model, 2, seed=0)

    found = jvp_embeddings(model, rows, tangents, pooling)

    wanted = differences(model, rows, tangents, pooling, step=1e-5)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-8
    assert not found[2].any()


def test_experts_are_written_out_as_attention_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward mode knows no grouped products; the model itself keeps them."""
    monkeypatch.setattr("transformers.models.mixtral.modeling_mixtral.torch", Wide())
    model: Any = of_any_family("mixtral")
    rows = cut_rows()
    inner = trunk_of(model, 1, attention="eager")
    tangents = tangents_of(inner, 2, seed=0)

    found = jvp_embeddings(inner, rows, tangents, "mean")

    wanted = differences(inner, rows, tangents, "mean", step=1e-5)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5  # routers are float32
    assert model.config._experts_implementation == "grouped_mm"


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_behind_a_row_changes_nothing(pooling: Pooling) -> None:
    """The same embedding for rows that are longer by what does not count."""
    model, rows = trunk("llama"), some_rows()
    inputs, targets, mask = (t[:, :9] for t in (rows.inputs, rows.targets, rows.mask))
    short = Batch(inputs, targets, mask, rows.domains, rows.rows)
    padded = replace(rows, mask=rows.mask & (torch.arange(16) < 9))
    tangents = tangents_of(model, 2, seed=0)

    one, other = (jvp_embeddings(model, batch, tangents, pooling) for batch in (short, padded))

    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    assert one.any()


def test_tangents_are_the_same_wherever_and_whenever_they_are_drawn() -> None:
    """In another process, for more tangents and for more layers; and they are standard normal."""
    code = (
        "from torch import nn\n"
        "from harness.influence.jvp import tangents_of\n"
        "table = nn.ModuleDict({'wte': nn.Embedding(512, 64)})\n"
        "print(tangents_of(table, 1, 0)['wte.weight'].double().sum().item())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = tangents_of(trunk("gpt2", 2), 3, 0)

    assert float(there.stdout) == float(here["wte.weight"][0].double().sum())
    first, second, third = here["wte.weight"]
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02
    assert float(third.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(tangents_of(trunk("gpt2", 1), 1, seed=1)["wte.weight"][0], first)


def test_tangents_share_the_forward_pass() -> None:
    """1 + 2 V forward passes of the blocks, for V tangents."""
    model, rows = trunk("llama"), some_rows()
    with FlopCounterMode(display=False) as forward:
        hidden_states(model, rows.inputs)
    for num_tangents in (1, 3):
        with FlopCounterMode(display=False) as counter:
            jvp_embeddings(model, rows, tangents_of(model, num_tangents, 0), "last")
        ratio = counter.get_total_flops() / forward.get_total_flops()
        assert ratio == pytest.approx(1 + 2 * num_tangents, rel=0.02)
