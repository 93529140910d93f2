"""What a model says to a prompt: greedy, bounded, on a copy, so that nothing of the run is touched.

Prompts are encoded as the corpus encodes a document's beginning, without special tokens. Of a
prompt that leaves no room for an answer in the model's context the beginning is cut off, since a
template's last words ask the question; how many were cut is said. Prompts of one batch are padded
on the left and sorted by length; a padded row's logits differ from those of the row alone by
rounding, so where two tokens tie, the batch may decide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.attribution.rows import parted
from harness.corpus.tokenizer import encode
from harness.errors import SpecError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from harness.attribution.opened import Opened

BATCH_ROWS = 16
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def generate(
    opened: Opened,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Return what the opened run's model says to each prompt, in their order.

    An answer ends before the end-of-text token, or after `max_new_tokens`. SpecError for a masked
    model, an empty prompt, or a context without room for one token of a prompt beside the answer.
    """
    end = int(opened.store.manifest["tokenizer"]["end_of_text"])
    said = speak(opened.view.model, opened.tokenizer, end, prompts, max_new_tokens, say)
    return [one.text for one in said]


class Said(NamedTuple):
    """An answer."""

    text: str
    ends: bool
    """Whether the model ended it; False: it was cut off at the limit."""


def speak(
    model: nn.Module,
    tokenizer: Tokenizer,
    end_of_text: int,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    say: Callable[[str], None] = print,
    batch_rows: int = BATCH_ROWS,
) -> list[Said]:
    """Return what `model` says to each prompt, and whether it came to an end."""
    encoded = [tokens.tolist() for tokens in encode(tokenizer, list(prompts))]
    for number, tokens in enumerate(encoded):
        if not tokens:
            raise SpecError(f"prompts: number {number + 1} is empty; write it, or remove it")
    room = room_for_prompts(model, max_new_tokens)
    long = sum(len(tokens) > room for tokens in encoded)
    if long:
        say(f"answers: {long} of {len(encoded)} prompts were cut to their last {room} tokens")
    encoded = [tokens[-room:] for tokens in encoded]
    speaker, answers = _speaker(model), [Said("", True)] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for first in range(0, len(order), batch_rows):
        chosen = order[first : first + batch_rows]
        rows = [encoded[i] for i in chosen]
        for i, new in zip(
            chosen, _continue(speaker, rows, end_of_text, max_new_tokens), strict=True
        ):
            answers[i] = Said(
                parted(tokenizer, encoded[i] + new, len(encoded[i])).answer,
                len(new) < max_new_tokens,
            )
    return answers


def room_for_prompts(model: nn.Module, max_new_tokens: int) -> int:
    """Return how many tokens of a prompt fit beside an answer; SpecError where none does."""
    room = context_length(model) - max_new_tokens
    if room < 1:
        size = f"{max_new_tokens} new tokens do not fit beside a prompt"
        fix = "lower max_new_tokens, or train with more batch.tokens"
        raise SpecError(f"answers: {size} in a context of {room + max_new_tokens}; {fix}")
    return room


def context_length(model: nn.Module) -> int:
    """Return how many tokens the model can read."""
    config: Any = model.config
    found = [value for name in _CONTEXTS if isinstance(value := getattr(config, name, None), int)]
    if not found:
        raise SpecError(f"answers: {type(model).__name__} does not say how many tokens it can read")
    return min(found)


def _speaker(model: nn.Module) -> Any:
    """Return a copy that can generate; SpecError for what cannot, such as a masked model."""
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: False)():
        name = type(model).__name__
        raise SpecError(f"answers: {name} cannot generate text; choose a causal language model")
    speaker: Any = copy.deepcopy(model).eval()
    speaker.config.use_cache = True
    return speaker


def _continue(
    speaker: Any, rows: list[list[int]], end: int, max_new_tokens: int
) -> list[list[int]]:
    """Return the new tokens of each row, without the end of text and what follows it."""
    width = max(len(row) for row in rows)
    device = next(speaker.parameters()).device
    inputs = torch.full((len(rows), width), end)
    mask = torch.zeros_like(inputs)
    for slot, row in enumerate(rows):
        inputs[slot, width - len(row) :] = torch.tensor(row)
        mask[slot, width - len(row) :] = 1
    with torch.no_grad():
        found: Tensor = speaker.generate(
            input_ids=inputs.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=end,
        )
    new = [row[width:] for row in found.tolist()]
    return [row[: row.index(end)] if end in row else row for row in new]
