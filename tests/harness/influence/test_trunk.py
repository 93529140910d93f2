"""Layout and trunk: seven families by structure, and one clear error for anything else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from harness.api import Batch
from harness.influence.jvp import jvp_embeddings, tangents_of
from harness.influence.layout import block_prefixes, layout_of
from harness.influence.selection import choose
from harness.influence.trunk import hidden_states, pooled, trunk_of
from harness.model import build_model
from harness.spec import Model
from tests.doubles import Bigram

VOCABULARY, TOKENS = 512, 16
# embeddings, blocks, final norm
FAMILIES = {
    "gpt2": ("transformer.wte", "transformer.h", "transformer.ln_f"),
    "gpt_neo": ("transformer.wte", "transformer.h", "transformer.ln_f"),
    "llama": ("model.embed_tokens", "model.layers", "model.norm"),
    "mistral": ("model.embed_tokens", "model.layers", "model.norm"),
    "opt": ("model.decoder.embed_tokens", "model.decoder.layers", "model.decoder.final_layer_norm"),
    "bert": ("bert.embeddings.word_embeddings", "bert.encoder.layer", ""),
    "roberta": ("roberta.embeddings.word_embeddings", "roberta.encoder.layer", ""),
}
every = pytest.mark.parametrize("family", FAMILIES)


def build(family: str) -> nn.Module:
    """Return a small model of the family; BERT and RoBERTa with the masked-LM objective."""
    masked = family in ("bert", "roberta")
    spec = Model(
        architecture=family,  # type: ignore[arg-type]
        objective="masked" if masked else "causal",
        config={"num_hidden_layers": 3},
    )
    return build_model(spec, VOCABULARY, TOKENS, seed=0)


def some_rows(num_rows: int = 3, tokens: int = TOKENS) -> Batch:
    """Return random rows: one counts nine tokens, another none."""
    made = torch.Generator().manual_seed(1)
    inputs = torch.randint(VOCABULARY, (num_rows, tokens), generator=made)
    mask = torch.ones_like(inputs, dtype=torch.bool)
    mask[1, 9:], mask[2] = False, False
    number = torch.arange(num_rows)
    return Batch(inputs, inputs, mask, torch.zeros_like(number), number)


@every
def test_the_parts_of_each_family_are_found(family: str) -> None:
    """By structure, with three blocks."""
    embeddings, blocks, norm = FAMILIES[family]
    model = build(family)
    layout = layout_of(model)

    assert (layout.embeddings, layout.blocks, layout.norm) == (embeddings, blocks, norm)
    assert layout.num_blocks == 3
    assert layout == layout_of(model, blocks)
    assert block_prefixes(model) == [f"{blocks}.{i}." for i in range(3)]
    assert {use.name.split(".")[blocks.count(".") + 1] for use in choose(model, last_blocks=1)} == {
        "2"
    }


@every
def test_stopping_after_some_blocks_gives_the_models_own_hidden_states(family: str) -> None:
    """output_hidden_states[l], then the final norm if it is wanted; also in another attention."""
    model, rows = build(family), some_rows()
    with torch.no_grad():
        own = model(input_ids=rows.inputs, use_cache=False, output_hidden_states=True)
        for layers in (1, 2):
            wanted = own.hidden_states[layers]
            bare = hidden_states(trunk_of(model, layers, final_norm=False), rows.inputs)
            assert torch.equal(bare, wanted)
            normed = layout_of(model).norm
            if normed:
                wanted = model.get_submodule(normed)(wanted)
            assert torch.equal(hidden_states(trunk_of(model, layers), rows.inputs), wanted)
            written_out = hidden_states(trunk_of(model, layers, attention="eager"), rows.inputs)
            torch.testing.assert_close(written_out, wanted, rtol=1e-4, atol=1e-5)
        # the last of transformers' hidden states has passed the norm already
        assert torch.equal(hidden_states(trunk_of(model, 0), rows.inputs), own.hidden_states[-1])


@every
def test_every_family_has_forward_mode_embeddings(family: str) -> None:
    """Finite, different between rows, 0 where nothing counts; the model keeps its attention."""
    model, rows = build(family), some_rows()
    before, attention = copy.deepcopy(model.state_dict()), attentions(model)
    trunk = trunk_of(model, 1, attention="eager")

    found = jvp_embeddings(trunk, rows, tangents_of(trunk, 2, 0), "last")

    assert found.shape == (3, 2 * model.config.hidden_size)  # type: ignore[operator, union-attr]
    assert found.isfinite().all()
    assert float((found[0] - found[1]).abs().min()) > 0
    assert not found[2].any()
    assert attentions(model) == attention
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def attentions(model: nn.Module) -> set[str]:
    """Return what the modules' configurations say."""
    configs: list[Any] = [m.config for m in model.modules() if hasattr(m, "config")]
    return {config._attn_implementation for config in configs}


def test_a_copys_attention_reaches_its_blocks_and_not_the_model() -> None:
    """What is called is eager in the copy alone, and the weights are the run's own."""
    model = build("llama")
    for layers in (0, 2):
        twin = trunk_of(model, layers, attention="eager")
        assert attentions(twin) == {"eager"}
        assert attentions(model) == {"sdpa"}
        own = {id(p) for p in model.parameters()}
        assert {id(p) for p in twin.parameters()} <= own
        assert not {id(b) for b in twin.buffers()} & {id(b) for b in model.buffers()}

    calls: list[Any] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plain(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        hidden_states(trunk_of(model, 2, attention="eager"), some_rows().inputs)
        assert not calls
        hidden_states(trunk_of(model, 2), some_rows().inputs)
        assert len(calls) == 2


def test_pooling_takes_the_last_counted_token_or_the_mean_of_all() -> None:
    """Never padding, and nothing where none counts, whatever stands there."""
    rows = some_rows()
    hidden = torch.randn(3, TOKENS, 4, generator=torch.Generator().manual_seed(0))
    spoilt = hidden.clone()
    spoilt[1, 9:], spoilt[2] = float("nan"), float("inf")

    last, mean = pooled(spoilt, rows, "last"), pooled(spoilt, rows, "mean")

    torch.testing.assert_close(last, torch.stack([hidden[0, -1], hidden[1, 8], torch.zeros(4)]))
    means = [hidden[0].mean(0), hidden[1, :9].mean(0), torch.zeros(4)]
    torch.testing.assert_close(mean, torch.stack(means))


class Sequential(nn.Module):
    """Embeddings, two lists of blocks of one length, and experts in one of them."""

    def __init__(self, lists: tuple[str, ...]) -> None:
        """Make lists under these names."""
        super().__init__()
        self.table = nn.Embedding(4, 4)
        for name in lists:
            self.add_module(name, nn.ModuleList(Experts() for _ in range(2)))

    def get_input_embeddings(self) -> nn.Module:
        """Return the table."""
        return self.table


class Experts(nn.Module):
    """A block that holds more experts than there are blocks."""

    def __init__(self) -> None:
        """Make five of them."""
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))


def test_experts_are_not_taken_for_blocks() -> None:
    """The list that lies in no other one, though it is shorter."""
    assert layout_of(Sequential(("body",))).blocks == "body"


def test_an_unknown_layout_says_what_was_looked_for_and_what_there_is() -> None:
    """In one line; an override by name settles what is ambiguous."""
    sought = r"looked for get_input_embeddings\(\), a ModuleList of blocks, and one module"
    two = Sequential(("encoder", "decoder"))
    cases: list[tuple[nn.Module, str | None, str]] = [
        (Bigram(8), None, rf"of Bigram: no list of blocks.*{sought}.*lists: none; children: table"),
        (two, None, rf"encoder and decoder are of one length; say which by .*; {sought}"),
        (two, "body", r"blocks: 'body' is no ModuleList.*lists: encoder \(2\), decoder \(2\)"),
        (nn.Sequential(nn.Linear(2, 2)), None, "no list of blocks"),
    ]  # fmt: skip
    for model, blocks, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            layout_of(model, blocks)
        assert "\n" not in str(caught.value)
    assert layout_of(two, "decoder").blocks == "decoder"

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(
        ValueError, match=r"there is no get_input_embeddings\(\).*lists: body \(1\)"
    ):
        layout_of(Bare())


def test_more_layers_than_there_are_is_an_error() -> None:
    """With the number of blocks."""
    with pytest.raises(ValueError, match=r"layers is 4; transformer.h has 3 blocks"):
        trunk_of(build("gpt2"), 4)
