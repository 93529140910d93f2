"""Greedy answers: bounded, on a copy, and the same one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.attribution.evaluation import answers
from harness.corpus import TokenStore
from harness.corpus.store import TOKENIZER
from harness.corpus.tokenizer import encode, from_text
from harness.errors import SpecError
from harness.model import build_model
from harness.spec import Model
from tests import tiny

PROMPTS = ("one two", "three", "a longer prompt of more words", "one two")


@pytest.fixture
def speaking(store: TokenStore) -> Any:
    """Return an object with what `generate` reads of an opened run: an untrained model."""
    model = build_model(Model(config=tiny.SHAPE), store.vocab_size, 48, seed=1)
    tokenizer = from_text((store.folder / TOKENIZER).read_text())
    return SimpleNamespace(view=SimpleNamespace(model=model), store=store, tokenizer=tokenizer)


def by_hand(speaking: Any, prompt: str, new: int) -> str:
    """Return the answer by one whole forward pass a token, one prompt at a time."""
    end = speaking.store.manifest["tokenizer"]["end_of_text"]
    tokens = encode(speaking.tokenizer, [prompt])[0].tolist()
    size = len(tokens)
    for _ in range(new):
        with torch.no_grad():
            logits = speaking.view.model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        found = int(logits[0, -1].argmax())
        if found == end:
            break
        tokens.append(found)
    return str(speaking.tokenizer.decode(tokens[size:]))


def test_answers_are_those_of_one_whole_pass_a_token_and_come_in_the_prompts_order(
    speaking: Any,
) -> None:
    found = answers.generate(speaking, PROMPTS, max_new_tokens=6)

    assert found == [by_hand(speaking, prompt, 6) for prompt in PROMPTS]
    assert found[0] == found[3]
    assert len({found[0], found[1], found[2]}) > 1


def test_an_answer_ends_before_the_end_of_text(speaking: Any) -> None:
    """A model that only knows the end of text says nothing."""
    with torch.no_grad():
        head = speaking.view.model.get_output_embeddings().weight
        head.copy_(torch.zeros_like(head))  # all logits equal: the first token, the end of text

    assert answers.generate(speaking, PROMPTS, max_new_tokens=5) == ["", "", "", ""]


def test_the_model_is_left_as_it_was(speaking: Any) -> None:
    model = speaking.view.model
    before = {name: value.clone() for name, value in model.state_dict().items()}

    answers.generate(speaking, PROMPTS[:1], max_new_tokens=3)

    assert model.config.use_cache is False
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_long_prompt_keeps_its_end_and_that_is_said(speaking: Any) -> None:
    said: list[str] = []
    long = "word " * 100 + "one two"

    found = answers.generate(speaking, [long, "one two"], 40, said.append)

    tokens = encode(speaking.tokenizer, [long])[0].tolist()
    end = speaking.tokenizer.decode(tokens[-8:])
    assert said == ["answers: 1 of 2 prompts were cut to their last 8 tokens"]
    assert found[0] == by_hand(speaking, end, 40)


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [
        (["one", ""], 4, "number 2 is empty"),
        (["one"], 48, "48 new tokens do not fit beside a prompt in a context of 48; lower"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    prompts: list[str], new: int, message: str, speaking: Any
) -> None:
    with pytest.raises(SpecError, match=message):
        answers.generate(speaking, prompts, new)


def test_a_masked_model_generates_nothing(store: TokenStore, speaking: Any) -> None:
    spec = Model(architecture="bert", objective="masked", config={"num_hidden_layers": 1})
    speaking.view.model = build_model(spec, store.vocab_size, 48, seed=1)

    with pytest.raises(SpecError, match="BertForMaskedLM cannot generate text"):
        answers.generate(speaking, ["one"], 4)
