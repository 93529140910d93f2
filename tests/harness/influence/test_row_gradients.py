"""Batched row gradients against one call of autograd per row, on several architectures."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch
from harness.influence.factors import Factors, summed
from harness.influence.row_gradients import row_gradients, row_losses
from harness.influence.selection import choose, coverage, covered, left_out
from tests.doubles import batch_of

VOCABULARY, TOKENS, ROWS = 48, 10, 5
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "gemma": {"head_dim": 6},  # its head is tied to an embedding that is scaled
    "mixtral": {"num_local_experts": 4},
}


class Gated(nn.Module):
    """A module times a gate of a single output, as Qwen2-MoE's shared expert has."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        """Keep the module."""
        super().__init__()
        self.inner, self.gate = inner, nn.Linear(width, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Return the product."""
        out: Tensor = self.inner(states) * self.gate(states).sigmoid()
        return out


def build(kind: str, vocabulary: int = VOCABULARY) -> nn.Module:
    """Return a tiny model in float64."""
    import transformers as tf

    torch.manual_seed(0)
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    config: tf.PretrainedConfig
    if kind in ("gpt2", "gated"):
        config = tf.GPT2Config(n_layer=2, n_embd=12, n_head=2, n_positions=TOKENS, **common)
    elif kind == "gpt_neo":
        config = tf.GPTNeoConfig(
            hidden_size=12,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=TOKENS,
            **common,
        )
    elif kind == "opt":
        config = tf.OPTConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=20,
            max_position_embeddings=TOKENS,
            word_embed_proj_dim=12,
            pad_token_id=1,
            **common,
        )
    elif kind == "bert":
        config = tf.BertConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=20,
            max_position_embeddings=TOKENS,
            **common,
        )
    else:
        like = {"llama": tf.LlamaConfig, "gemma": tf.GemmaConfig, "mixtral": tf.MixtralConfig}
        config = like[kind](
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=20,
            max_position_embeddings=TOKENS,
            **OF_FAMILY[kind],
            **common,
        )
    config.use_cache = False
    with torch.random.fork_rng():
        kinds: Any = tf.AutoModelForMaskedLM if kind == "bert" else tf.AutoModelForCausalLM
        model: Any = kinds.from_config(config, attn_implementation="eager")
        if kind == "gated":
            model.transformer.h[0].mlp = Gated(model.transformer.h[0].mlp, 12)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # from zero, biases would hide mistakes
                nn.init.normal_(parameter, std=0.1)
    return model.double().eval()  # type: ignore[no-any-return]


def some_rows(seed: int = 0, num_rows: int = ROWS) -> Batch:
    """Return random rows; the second has four counted targets and the third none."""
    made = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (num_rows, TOKENS + 1), generator=made)
    batch = batch_of([i % 3 for i in range(num_rows)], TOKENS)
    mask = torch.ones_like(batch.mask)
    mask[1, 4:], mask[2] = False, False
    return replace(batch, inputs=tokens[:, :-1], targets=tokens[:, 1:].contiguous(), mask=mask)


def by_autograd(model: nn.Module, rows: Batch, names: list[str], reduction: str) -> list[Tensor]:
    """Return each row's gradients by one plain backward pass of its own, [B, *shape] by name."""
    parameters = dict(model.named_parameters())
    found = []
    for i in range(len(rows.rows)):
        logits = model(input_ids=rows.inputs[i : i + 1]).logits[0].log_softmax(-1)
        losses = -logits.gather(1, rows.targets[i][:, None].clamp(min=0))[:, 0][rows.mask[i]]
        loss = losses.sum() if reduction == "sum" else losses.sum() / max(1, len(losses))
        found.append(torch.autograd.grad(loss, [parameters[name] for name in names]))
    return [torch.stack(rows_) for rows_ in zip(*found, strict=True)]


def closeness(kind: str) -> dict[str, Any]:
    """Return tolerances: float64's, but GPT-Neo computes attention in float32 whatever it is."""
    return {"rtol": 1e-5, "atol": 1e-7} if kind == "gpt_neo" else {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["gpt2", "gated", "llama", "gemma", "gpt_neo", "opt", "bert"])
def test_row_gradients_are_those_of_one_backward_pass_per_row(kind: str, reduction: str) -> None:
    """Conv1D, linear (a single output too), heads tied or not, embeddings (scaled too), positions.

    To float64's precision.
    """
    model, rows = build(kind), some_rows()

    ours = row_gradients(model, rows, choose(model, ("all",)), reduction)  # type: ignore[arg-type]

    theirs = by_autograd(model, rows, list(ours), reduction)
    for name, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours[name], wanted, **closeness(kind), msg=name)
    matrices = {n for n, p in model.named_parameters() if p.ndim == 2}
    assert matrices - set(ours) <= {"model.decoder.embed_positions.weight"}
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in ours.values())


def test_a_row_that_counts_nothing_has_no_gradient_and_targets_off_the_mask_are_not_read() -> None:
    """Zero and not NaN; -100 stands at masked targets, as in Hugging Face data."""
    model, rows = build("gpt2"), some_rows()
    odd = replace(rows, targets=rows.targets.where(rows.mask, -100))

    plain = row_gradients(model, rows, choose(model))
    strange = row_gradients(model, odd, choose(model))

    for name in plain:
        assert float(plain[name][2].abs().max()) == 0
        assert torch.equal(plain[name], strange[name])


def test_what_follows_the_last_counted_target_does_not_leak_in() -> None:
    """Padding by any token gives the same gradient."""
    model, rows = build("llama"), some_rows()
    inputs = rows.inputs.clone()
    inputs[1, 4:] = 7

    plain = row_gradients(model, rows, choose(model, ("all",)))
    padded = row_gradients(model, replace(rows, inputs=inputs), choose(model, ("all",)))

    for name in plain:
        torch.testing.assert_close(plain[name], padded[name], rtol=1e-10, atol=1e-13)


def test_frozen_parameters_have_gradients_and_stay_frozen() -> None:
    """Nothing depends on what is trained."""
    model, rows = build("gpt2"), some_rows()
    before = row_gradients(model, rows, choose(model, ("all",)))

    model.requires_grad_(False)
    after = row_gradients(model, rows, choose(model, ("all",)))

    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    """Bits, grads, hooks and the generator, also where the pass breaks off."""
    model, rows = build("gpt2"), some_rows()
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    generator = torch.get_rng_state()

    if fails:
        with pytest.raises(IndexError):
            row_gradients(model, replace(rows, inputs=rows.inputs + VOCABULARY), choose(model))
    else:
        row_gradients(model, rows, choose(model))

    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("kind", "modules", "last", "expected"),
    [
        ("gpt2", ("linear",), 0, 8),
        ("gpt2", ("mlp",), 0, 4),
        ("gpt2", ("linear",), 1, 4),
        ("gpt2", ("all",), 0, 11),
        ("opt", ("mlp",), 1, 2),
        ("llama", ("mlp",), 0, 6),
        ("llama", (r"down_proj$", r"q_proj"), 0, 4),
        ("gpt2", ("lm_head",), 0, 2),  # tied: the embedding is the same parameter
    ],
)
def test_modules_are_chosen_by_kind_block_and_pattern(
    kind: str, modules: tuple[str, ...], last: int, expected: int
) -> None:
    """Counted by hand for two blocks."""
    assert len(choose(build(kind), modules, last)) == expected


def test_a_pattern_that_matches_nothing_lists_what_there_is() -> None:
    """One line, with the presets and the modules."""
    with pytest.raises(
        ValueError, match=r"'nosuch' matches nothing; there are linear, mlp, all,.*c"
    ):
        choose(build("gpt2"), ("nosuch",))
    with pytest.raises(ValueError, match="last_blocks is 3; the model has 2 blocks"):
        choose(build("gpt2"), last_blocks=3)


@pytest.mark.parametrize(("modules", "share"), [(("linear",), 864), (("all",), 864 + 2 * 48 * 12)])
def test_experts_and_routers_are_left_out_aloud(modules: tuple[str, ...], share: int) -> None:
    """Once, with the share that is covered, which records have too; counted by hand."""
    model = build("mixtral")
    total = sum(p.numel() for p in model.parameters())
    said = f"{modules[0]} leaves out model.layers.0.mlp.gate.weight and 5 more, whose row gradients"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        uses = choose(model, modules)
        choose(model, modules)

    (told,) = [str(one.message) for one in caught]
    covers = f"row gradients cover {share / total:.0%} of the parameters"
    assert told == f"modules: {said} are not known; {covers}"
    assert covered(model, uses) == pytest.approx(share / total)
    with pytest.warns(UserWarning, match="leaves out"):
        assert coverage(model, modules) == {"left_out": 6, "covered": covered(model, uses)}


def test_what_is_left_out_is_what_was_meant() -> None:
    """No experts among attention, by name or by block; none in a model without them."""
    model = build("mixtral")

    assert left_out(model, ("self_attn",)) == []
    assert left_out(model, ("experts",), last_blocks=1) == [
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj",
    ]
    with pytest.raises(ValueError, match=r"'mlp' matches nothing but .*\.gate.* and 5 more, whose"):
        choose(model, ("mlp",))
    for kind in ("gpt2", "opt", "gemma"):
        assert coverage(build(kind), ("all",)) == {}


class Shifted(nn.Embedding):
    """An embedding that says that it is scaled, and does more."""

    embed_scale = 2.0

    def forward(self, index: Tensor) -> Tensor:
        """Scale, and add one."""
        return super().forward(index) * self.embed_scale + 1


def shifted(model: Any) -> Any:
    """Return the model with its head tied to such an embedding."""
    table = Shifted(*model.lm_head.weight.shape)
    model.model.embed_tokens, table.weight = table, model.lm_head.weight
    return model


def test_an_embedding_that_does_more_than_scale_is_not_understood() -> None:
    """Its tied head is refused, in one line."""
    with pytest.raises(ValueError, match="embed_tokens shares a weight in a way that is not"):
        choose(shifted(build("llama")), ("all",))


def test_biases_can_be_left_out() -> None:
    """Weights alone then."""
    model, rows = build("gpt2"), some_rows()

    assert not any("bias" in n for n in row_gradients(model, rows, choose(model, biases=False)))
    assert sum("bias" in n for n in row_gradients(model, rows, choose(model))) == 8


def test_row_losses_count_only_counted_targets() -> None:
    """Sum and mean differ by the count."""
    model, rows = build("gpt2"), some_rows()

    total, mean = row_losses(model, rows, "sum"), row_losses(model, rows, "mean")

    torch.testing.assert_close(total, mean * rows.mask.sum(1))
    assert float(mean[2].detach()) == 0


@pytest.mark.parametrize("one_hot", [False, True])
def test_shares_of_a_sum_are_not_rounded_as_its_factors_are(one_hot: bool) -> None:
    """One share for all rows of bfloat16 factors: its sum is off by rounding, not by a bias.

    1/3 is .3340 in bfloat16, 2e-3 too much, for every number alike.
    """
    made = torch.Generator().manual_seed(0)
    left = torch.randn(6, 64, 5, generator=made).bfloat16()
    right = torch.randn(6, 64, 7, generator=made).bfloat16()
    if one_hot:
        left = torch.randint(5, (6, 64), generator=made)
    shares = torch.full((6,), 1 / 3, dtype=torch.float64)

    found, _ = summed(Factors(left, right, 5), shares)

    dense = torch.nn.functional.one_hot(left, 5) if one_hot else left
    wanted = torch.einsum("btl,btr->lr", dense.double(), right.double()) / 3
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)
    bias = float((found.double() * wanted).sum() / wanted.square().sum()) - 1
    assert abs(bias) < 5e-4
