"""Adapter gradients in batches against one plain backward pass per row."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch
from harness.influence.influcoder.evaluation import projection_fidelity
from harness.influence.influcoder.lora_gradients import (
    Adapter,
    adapted,
    adapted_copy,
    cosines,
    row_features,
)
from harness.influence.projections import CountSketch
from harness.rng import key
from tests.doubles import FakeView
from tests.harness.influence.test_row_gradients import build, some_rows

WHOLE = Adapter(rank=3, dims=0, seed=5)


def view_of(model: nn.Module) -> FakeView:
    """Return a view of the model."""
    return FakeView(model=model)


def by_autograd(copied: Any, rows: Batch) -> Tensor:
    """Return each row's gradient of peft's B matrices [B, P] by a backward pass of its own."""
    matrices = {n: p for n, p in copied.named_parameters() if ".lora_B." in n}
    for parameter in matrices.values():
        parameter.requires_grad_(True)
    found = []
    for i in range(len(rows.rows)):
        logits = copied(input_ids=rows.inputs[i : i + 1]).logits[0].log_softmax(-1)
        losses = -logits.gather(1, rows.targets[i][:, None])[:, 0][rows.mask[i]]
        loss = losses.sum() / max(1, len(losses)) + 0 * logits.sum()
        parts = torch.autograd.grad(loss, list(matrices.values()))
        named = dict(zip(matrices, parts, strict=True))
        found.append(torch.cat([named[name].flatten() for name in sorted(named)]))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neo", "opt"])
def test_batched_adapter_gradients_are_those_of_one_backward_pass_per_row(kind: str) -> None:
    """Conv1D and linear layers, in float64; GPT-Neo's attention is float32 whatever is asked."""
    model, rows = build(kind), some_rows()
    on = adapted(model, WHOLE)

    ours = row_features(view_of(model), WHOLE, on, rows, 2)

    theirs = by_autograd(adapted_copy(model, WHOLE), rows)
    lengths = theirs.norm(dim=1, keepdim=True)
    assert (lengths[:, 0] > 0).tolist() == [True, True, False, True, True]
    torch.testing.assert_close(ours, theirs / lengths.clamp(min=1e-30), rtol=1e-9, atol=1e-9)


def test_the_adapted_copy_computes_what_the_model_does_and_only_b_has_a_gradient() -> None:
    """B is zero: so are the gradients of A; the adapter is on every linear layer of the blocks."""
    model, rows = build("gpt2"), some_rows()
    copied: Any = adapted_copy(model, WHOLE)
    adapters = {n: p.requires_grad_(True) for n, p in copied.named_parameters() if "lora_" in n}

    logits = copied(input_ids=rows.inputs).logits
    gradients = torch.autograd.grad(logits.logsumexp(-1).sum(), list(adapters.values()))

    assert torch.equal(logits, model(input_ids=rows.inputs).logits)
    assert {use.weight for use in adapted(model, WHOLE).uses} == {n for n in adapters if "_B" in n}
    assert len(adapters) == 2 * 8
    for name, gradient in zip(adapters, gradients, strict=True):
        assert (float(gradient.abs().max()) > 0) == (".lora_B." in name), name


def test_features_in_bfloat16_are_those_of_float32_to_three_digits() -> None:
    """The network's products alone are rounded; features are of the float32 kind."""
    model, rows = build("gpt2").float(), some_rows(num_rows=8)
    adapter = replace(WHOLE, dims=64)

    exact, rough = (
        row_features(view_of(model), one, adapted(model, one), rows, 0)
        for one in (adapter, replace(adapter, precision="bfloat16"))
    )

    counted = rows.mask.any(1)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert float((exact * rough).sum(1)[counted].min()) > 0.999


def test_no_gradient_of_a_weight_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pass's products, none has the shape of a weight's or of A's gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    model, rows = build("llama"), some_rows()
    on = adapted(model, WHOLE)
    copied = adapted_copy(model, WHOLE)
    shapes = {
        tuple(p.shape) for n, p in copied.named_parameters() if p.ndim == 2 and ".lora_B." not in n
    }
    shapes |= {shape[::-1] for shape in shapes}
    made: list[tuple[int, ...]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm"):
                made.append(tuple(out.shape))
            return out

    with Products():
        row_features(view_of(model), replace(WHOLE, dims=64), on, rows, 16)

    assert made
    assert not shapes & set(made)


def test_an_adapter_is_a_function_of_its_seed_and_no_generator_moves() -> None:
    """Equal seeds give equal bits whatever the global generator; others give other features."""
    model, rows = build("gpt2"), some_rows()
    bits = {name: value.clone() for name, value in model.state_dict().items()}

    def features(seed: int) -> Tensor:
        adapter = Adapter(rank=3, dims=64, seed=seed)
        before = torch.get_rng_state()
        found = row_features(view_of(model), adapter, adapted(model, adapter), rows, 16)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    torch.manual_seed(1)
    first = features(5)
    torch.manual_seed(2)
    again, other = features(5), features(6)

    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert not any("lora" in name for name, _ in model.named_modules())


def test_features_are_the_sketch_of_the_whole_gradient_at_length_one() -> None:
    """Module by module, as CountSketch is defined; and cosines come in any chunks."""
    model, rows = build("gpt2"), some_rows()
    adapter = replace(WHOLE, dims=32)
    on, view = adapted(model, adapter), view_of(model)

    found = row_features(view, adapter, on, rows, 3)

    sketch = CountSketch(32, key(5, "influcoder sketch"))
    copied = adapted_copy(model, adapter)
    whole, sizes = by_autograd(copied, rows), {}
    for name, parameter in copied.named_parameters():
        if ".lora_B." in name:
            sizes[name] = parameter.numel()
    names = sorted(sizes)
    parts = whole.split([sizes[name] for name in names], 1)
    wanted = sum(sketch.project(n, part) for n, part in zip(names, parts, strict=True))
    assert isinstance(wanted, Tensor)
    wanted = wanted / wanted.norm(dim=1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(cosines(view, adapter, on, rows, found[:2], 2), found[:2] @ found.T)


def test_sketched_cosines_are_near_those_of_whole_gradients() -> None:
    """Within a few 1 / sqrt(dims); wide enough a sketch is the gradient, narrow it is not."""
    view, rows = view_of(build("gpt2").float()), some_rows(num_rows=8)

    wide = projection_fidelity(view, replace(WHOLE, dims=8192), rows)
    narrow = projection_fidelity(view, replace(WHOLE, dims=16), rows)

    assert wide.max_error < 0.05 < narrow.max_error
    assert wide.spearman > 0.99


def test_what_is_not_finite_is_named() -> None:
    """The row, its domain, the step and the module."""
    model = build("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[0, 0] = float("inf")  # type: ignore[union-attr, index]
    with pytest.raises(FloatingPointError, match=r"row 0 of domain 'a' at step 0 .*lora_B"):
        row_features(view_of(model), WHOLE, adapted(model, WHOLE), some_rows(), 16)


def test_a_row_with_targets_must_have_a_gradient() -> None:
    """A model that ignores its blocks has none."""
    model = build("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()  # type: ignore[union-attr]
    with pytest.raises(FloatingPointError, match=r"row 0 of domain 'a'.*zero although targets"):
        row_features(view_of(model), WHOLE, adapted(model, WHOLE), some_rows(), 16)


def test_an_adapter_does_not_go_on_an_embedding() -> None:
    """Nor on a head that is tied to one."""
    with pytest.raises(ValueError, match="all takes in an embedding; adapters go on linear"):
        adapted(build("gpt2"), replace(WHOLE, modules=("all",)))


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'^influcoder needs peft: pip install "steelyard\['):
        adapted(build("gpt2"), WHOLE)
