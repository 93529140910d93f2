"""Short rows in bfloat16 train with attention as products: the same numbers, all set back."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import pytest
import torch

from harness.attention import SHORT, short_rows
from harness.model import build_model, token_losses
from harness.spec import Model
from tests.harness.test_model import some_rows

FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"


def _half() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


def _kernels(tokens: int, within: AbstractContextManager[object]) -> set[str]:
    states = torch.randn(1, 2, tokens, 16, requires_grad=True)
    with within, torch.profiler.profile() as seen, short_rows(torch.zeros(1, tokens)):
        torch.nn.functional.scaled_dot_product_attention(states, states, states, is_causal=True)
    return {event.key for event in seen.key_averages()}


def test_only_where_a_gradient_is_asked_for_in_bfloat16_of_short_rows() -> None:
    assert FUSED not in _kernels(SHORT, _half())
    assert FUSED in _kernels(SHORT + 1, _half())
    assert FUSED in _kernels(SHORT, contextlib.nullcontext())

    looking = contextlib.ExitStack()
    looking.enter_context(_half())
    looking.enter_context(torch.no_grad())
    assert FUSED in _kernels(SHORT, looking)


def test_what_it_sets_is_set_back() -> None:
    backends = torch.backends.cuda
    reads = (
        backends.fp16_bf16_reduction_math_sdp_allowed,
        backends.flash_sdp_enabled,
        backends.math_sdp_enabled,
    )
    before = [read() for read in reads]

    with pytest.raises(KeyboardInterrupt), _half(), short_rows(torch.zeros(1, 8)):
        raise KeyboardInterrupt
    assert [read() for read in reads] == before


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_losses_and_gradients_are_those_of_float32_as_nearly_as_the_fused_kernels(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative errors of one gradient: at most a tenth more than the fused kernel has, or 1 %."""
    model = build_model(Model(architecture=architecture), 512, 32, 0)  # type: ignore[arg-type]
    rows = some_rows(4)

    def gradient(within: AbstractContextManager[object]) -> torch.Tensor:
        with within:
            loss = token_losses(model, rows).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    exact = gradient(contextlib.nullcontext())
    ours = gradient(_half())
    monkeypatch.setattr("harness.model.short_rows", lambda _: contextlib.nullcontext())
    fused = gradient(_half())

    errors = [float((half - exact).norm() / exact.norm()) for half in (ours, fused)]
    assert not torch.equal(ours, fused)
    assert errors[0] < max(1.1 * errors[1], 0.01)
