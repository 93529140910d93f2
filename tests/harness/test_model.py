"""Models from scratch: a function of the spec and the seed, with losses in nats per token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation

from harness.api import Batch
from harness.model import build_model, token_losses
from harness.spec import Model
from tests.doubles import batch_of

VOCABULARY, TOKENS = 512, 32
MODELS = [Model(), Model(architecture="llama")]
both = pytest.mark.parametrize("spec", MODELS, ids=["gpt2", "llama"])


def build(spec: Model, seed: int = 0, attention: str = "sdpa") -> nn.Module:
    """Return a small model."""
    return build_model(spec, VOCABULARY, TOKENS, seed, attention)


def some_rows(rows: int = 3) -> Batch:
    """Return random tokens."""
    made = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (rows, TOKENS + 1), generator=made)
    batch = batch_of([0] * rows, TOKENS)
    return replace(batch, inputs=tokens[:, :-1], targets=tokens[:, 1:].contiguous())


@both
def test_equal_seeds_give_equal_weights(spec: Model) -> None:
    """Paired arms start from the same parameters, whatever was computed before them."""
    one = build(spec).state_dict()
    torch.rand(7)
    two, other = build(spec).state_dict(), build(spec, seed=1).state_dict()

    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    matrices = [name for name in one if one[name].ndim == 2]
    assert matrices
    assert not any(torch.equal(one[name], other[name]) for name in matrices)


@both
def test_building_leaves_the_global_generator_alone(spec: Model) -> None:
    """Initialisation has a generator of its own."""
    before = torch.get_rng_state()
    build(spec)

    assert torch.equal(torch.get_rng_state(), before)


@both
def test_attention_does_not_change_what_is_initialised(spec: Model) -> None:
    """Fused and written-out attention are one model: equal weights, equal losses."""
    fused, written_out, batch = build(spec), build(spec, attention="eager"), some_rows()

    with torch.no_grad():
        losses = token_losses(fused, batch), token_losses(written_out, batch)

    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


@both
def test_the_loss_is_transformers_own(spec: Model) -> None:
    """Its loss shifts labels by itself, so it lacks the last target of each row."""
    model, batch = build(spec), some_rows()

    with torch.no_grad():
        ours = token_losses(model, batch)
        theirs = model(input_ids=batch.inputs, labels=batch.inputs).loss

    assert ours.shape == (3, TOKENS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours[:, :-1].mean(), theirs, rtol=1e-6, atol=0)


@both
def test_the_loss_is_the_surprise_at_the_target(spec: Model) -> None:
    """Minus the log of the softmax at the target, in nats."""
    model, batch = build(spec), some_rows()

    with torch.no_grad():
        surprise = -model(input_ids=batch.inputs).logits.double().log_softmax(-1)
        wanted = surprise.gather(2, batch.targets[:, :, None])[:, :, 0]

    torch.testing.assert_close(
        token_losses(model, batch).detach().double(), wanted, rtol=1e-6, atol=0
    )
    assert float(wanted.mean()) == pytest.approx(6.24, abs=0.1)  # log 512: nothing is learned yet


@both
def test_masked_targets_have_no_loss_and_no_gradient(spec: Model) -> None:
    """A loss of 0 where the mask is off, and parameters do not hear of it."""
    model, batch = build(spec), some_rows()
    none = replace(batch, mask=torch.zeros_like(batch.mask))
    some = replace(batch, mask=batch.mask & (torch.arange(TOKENS) < 4))

    assert float(token_losses(model, none).detach().abs().sum()) == 0
    masked, full = token_losses(model, some), token_losses(model, batch)
    assert torch.equal(masked[:, :4], full[:, :4])
    assert float(masked[:, 4:].detach().abs().sum()) == 0
    gradients = torch.autograd.grad(token_losses(model, none).sum(), list(model.parameters()))
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients)
    # whatever stands there: libraries mark targets that do not count by -100
    marked = replace(some, targets=batch.targets.where(some.mask, -100))
    assert torch.equal(token_losses(model, marked), masked)


@both
def test_no_loss_depends_on_later_tokens_or_other_rows(spec: Model) -> None:
    """Causal: changing token 20 of row 0 changes no loss before it and none in other rows."""
    model, batch = build(spec), some_rows()
    changed = batch.inputs.clone()
    changed[0, 20] = (changed[0, 20] + 1) % VOCABULARY

    with torch.no_grad():
        before, after = (
            token_losses(model, replace(batch, inputs=inputs)) for inputs in (batch.inputs, changed)
        )

    torch.testing.assert_close(after[0, :20], before[0, :20], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-6, atol=1e-6)
    assert bool(((after[0, 20:] - before[0, 20:]).abs() > 1e-6).any())


@both
def test_there_is_no_dropout(spec: Model) -> None:
    """A run is a function of its spec: two training passes give the same bits."""
    model, batch = build(spec), some_rows()
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    settings = {k: v for k, v in model.config.to_dict().items() if "drop" in k}  # type: ignore[operator, union-attr]

    assert not model.training
    assert rates == [0.0] * len(rates)
    # summary_first_dropout belongs to a head that a language model does not have
    assert {v for k, v in settings.items() if k != "summary_first_dropout"} <= {0.0}
    assert settings
    assert torch.equal(token_losses(model, batch), token_losses(model, batch))


@both
def test_a_config_reaches_the_model(spec: Model) -> None:
    """Any field of transformers' own configuration may be set."""
    epsilon = "layer_norm_epsilon" if spec.architecture == "gpt2" else "rms_norm_eps"
    model = build(replace(spec, config={epsilon: 0.125}))

    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    assert norms
    values = {getattr(m, "eps", getattr(m, "variance_epsilon", None)) for m in norms}
    assert values == {0.125}


def test_gpt2s_gelu_is_one_kernel_of_the_same_function() -> None:
    """Against transformers' own way of writing it; the configuration keeps its name."""
    model = build(Model())
    states = torch.randn(5, 7, dtype=torch.float64) * 3

    (fused,) = {type(block.mlp.act) for block in model.transformer.h}  # type: ignore[union-attr]
    act = model.transformer.h[0].mlp.act  # type: ignore[union-attr, index]
    assert fused is nn.GELU
    assert model.config.activation_function == "gelu_new"  # type: ignore[union-attr]
    torch.testing.assert_close(act(states), NewGELUActivation()(states), rtol=1e-12, atol=1e-12)
