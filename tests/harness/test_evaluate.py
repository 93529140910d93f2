"""Evaluation: fixed rows in fixed order, nats per token and bits per byte by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.cost import Meter
from harness.evaluate import Evaluator
from harness.model import RowFlops
from harness.stream import Shelf

VOCABULARY, TOKENS = 8, 4
BYTES = np.array([0, 1, 1, 2, 2, 3, 3, 4], dtype=np.int32)  # token 0 ends a text: no bytes
FLOPS = RowFlops(10.0, 20.0)


class Guesser(nn.Module):
    """Gives the next token in line a logit of `sure`, all others 0; remembers what it saw."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure
        self.seen: list[Tensor] = []

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        self.seen.append(input_ids.clone())
        guess = (input_ids + 1) % VOCABULARY
        logits = torch.nn.functional.one_hot(guess, VOCABULARY).float() * self.sure
        return SimpleNamespace(logits=logits)


def counting(rows: int, start: int = 0) -> np.ndarray:
    """Return tokens that count upward around the vocabulary: every guess is right."""
    return (np.arange(rows * TOKENS + 1) + start) % VOCABULARY


def evaluator(rows: int = 64, chunk_rows: int = 32, **streams: np.ndarray) -> Evaluator:
    """Return an evaluator of one split."""
    return Evaluator(
        shelves={"heldout": Shelf(streams, TOKENS)},
        domains=tuple(streams),
        rows=rows,
        chunk_rows=chunk_rows,
        num_bytes={"heldout": {domain: BYTES[stream] for domain, stream in streams.items()}},
        row_flops=FLOPS,
        device="cpu",
        precision="float32",
    )


def test_nats_per_token_and_bits_per_byte_by_hand() -> None:
    """Two rows: 8 targets of 16 bytes, and one wrong guess among them."""
    tokens = np.array([0, 1, 2, 3, 4, 5, 6, 7, 1])  # the last guess is 0, and the target 1
    total = math.log(VOCABULARY - 1 + math.e**2)
    nats = 7 * (total - 2) + total
    num_bytes = int(BYTES[tokens[1:]].sum())

    (record,) = evaluator(a=tokens).evaluate(Guesser(2.0), Meter())

    assert (record["split"], record["domain"]) == ("heldout", "a")
    assert (record["num_tokens"], record["num_bytes"]) == (8, num_bytes) == (8, 17)
    assert record["nats_per_token"] == pytest.approx(nats / 8, rel=1e-6)
    assert record["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)


def test_a_uniform_guess_costs_three_bits_a_token() -> None:
    """Of eight tokens; the bytes are those of the targets, the end of a text has none."""
    (record,) = evaluator(a=np.array([7, 0, 1, 0, 3])).evaluate(Guesser(0.0), Meter())

    assert record["nats_per_token"] == pytest.approx(math.log(8), rel=1e-6)
    assert record["num_bytes"] == 0 + 1 + 0 + 2
    assert record["bits_per_byte"] == pytest.approx(3 * 4 / 3, rel=1e-6)


def test_one_record_for_each_split_and_domain() -> None:
    """In the order of the splits, then of the domains."""
    shelves = {
        split: Shelf({"a": counting(3, shift), "b": counting(3, shift + 1)}, TOKENS)
        for shift, split in enumerate(("heldout", "tuning"))
    }
    num_bytes = {s: {d: BYTES[t] for d, t in shelf.streams.items()} for s, shelf in shelves.items()}
    both = Evaluator(shelves, ("a", "b"), 64, 32, num_bytes, FLOPS, "cpu", "float32")

    records = both.evaluate(Guesser(1.0), Meter())

    places = [(record["split"], record["domain"]) for record in records]
    assert places == [("heldout", "a"), ("heldout", "b"), ("tuning", "a"), ("tuning", "b")]


def test_rows_are_fixed_in_fixed_order_and_spread_over_the_split() -> None:
    """Four of ten: rows 0, 2, 5 and 7, the same in every evaluation."""
    stream = np.arange(10 * TOKENS + 1) % VOCABULARY
    stream[::TOKENS] = np.arange(11) % VOCABULARY  # the first token tells the row
    model = Guesser(1.0)
    check = evaluator(rows=4, a=stream)

    check.evaluate(model, Meter())
    check.evaluate(model, Meter())

    assert model.seen[0][:, 0].tolist() == [0, 2, 5, 7]
    assert torch.equal(model.seen[0], model.seen[1])
    assert len(model.seen) == 2


def test_a_small_split_gives_all_its_rows() -> None:
    """Each once, although more were asked for."""
    (record,) = evaluator(rows=64, a=counting(5)).evaluate(Guesser(1.0), Meter())

    assert record["num_tokens"] == 5 * TOKENS


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100])
def test_chunks_change_nothing_but_memory(chunk_rows: int) -> None:
    """Seven rows in any number of passes give the same record."""
    stream = np.random.default_rng(0).integers(0, VOCABULARY, 7 * TOKENS + 1)
    (whole,) = evaluator(a=stream).evaluate(Guesser(1.5), Meter())
    (record,) = evaluator(chunk_rows=chunk_rows, a=stream).evaluate(Guesser(1.5), Meter())

    assert record.pop("nats_per_token") == pytest.approx(whole.pop("nats_per_token"), rel=1e-12)
    assert record.pop("bits_per_byte") == pytest.approx(whole.pop("bits_per_byte"), rel=1e-12)
    assert record == whole


def test_losses_are_kept_by_document_where_they_are_asked_for() -> None:
    """Documents of 3, 4 and 6 tokens in three rows; a target counts where it stands."""
    stream = np.random.default_rng(1).integers(1, VOCABULARY, 3 * TOKENS + 1)
    check = replace(
        evaluator(chunk_rows=2, a=stream), starts={"heldout": {"a": np.array([0, 3, 7])}}
    )
    model = Guesser(1.5)
    right = (stream[:-1] + 1) % VOCABULARY == stream[1:]
    nats = math.log(VOCABULARY - 1 + math.exp(1.5)) - 1.5 * right  # of the targets, tokens 1 to 12
    parts: list[dict[str, Any]] = []

    (record,) = check.evaluate(model, Meter(), apart=parts)
    (found,) = parts

    assert (found["split"], found["domain"], found["documents"]) == ("heldout", "a", [0, 1, 2])
    assert found["nats"] == pytest.approx(
        [nats[0:2].sum(), nats[2:6].sum(), nats[6:].sum()], rel=1e-5
    )
    bytes_ = BYTES[stream]
    assert found["bytes"] == [bytes_[1:3].sum(), bytes_[3:7].sum(), bytes_[7:].sum()]
    assert record == check.evaluate(model, Meter())[0]


def test_a_document_without_an_evaluated_target_is_left_out() -> None:
    """One row of three is evaluated, which ends in the second document."""
    starts = {"heldout": {"a": np.array([0, 3, 7, 9])}}
    parts: list[dict[str, Any]] = []

    replace(evaluator(rows=1, a=counting(3)), starts=starts).evaluate(
        Guesser(1.0), Meter(), apart=parts
    )

    assert parts[0]["documents"] == [0, 1]


@pytest.mark.parametrize("sure", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_domain(sure: float) -> None:
    """The first domain where it happens; nothing is recorded."""

    class OnlyOnB(Guesser):
        def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
            self.sure = sure if int(input_ids[0, 0]) == 5 else 1.0
            return super().forward(input_ids, use_cache)

    streams = {"a": counting(2), "b": counting(2, 5), "c": counting(2, 5)}

    with pytest.raises(FloatingPointError, match="domain 'b' is nan"):
        evaluator(64, 32, **streams).evaluate(OnlyOnB(1.0), Meter())


def test_the_probe_set_is_measured_in_nats_and_billed_to_the_referee() -> None:
    """Its rows are those of the probe shelf: here all guesses are wrong, held out all are right."""
    total = math.log(VOCABULARY - 1 + math.e)
    wrong = np.zeros(3 * TOKENS + 1, dtype=np.int64)
    check = replace(evaluator(a=counting(3)), probe=Shelf({"a": wrong}, TOKENS))
    meter = Meter()

    (record,) = check.evaluate_probe(Guesser(1.0), meter)

    assert record == {
        "domain": "a",
        "nats_per_token": pytest.approx(total),
        "num_tokens": 3 * TOKENS,
    }
    assert (meter.accounts["eval"].flops, meter.accounts["eval"].tokens) == (3 * 10.0, 3 * TOKENS)
    assert meter.accounts["mixer"].flops == 0
    assert evaluator(a=counting(3)).evaluate_probe(Guesser(1.0), meter) == []


def test_evaluation_is_billed_to_its_own_account() -> None:
    """One forward for each row, and its targets."""
    meter = Meter()
    evaluator(rows=3, a=counting(5), b=counting(2)).evaluate(Guesser(1.0), meter)

    assert (meter.accounts["eval"].flops, meter.accounts["eval"].tokens) == (5 * 10.0, 5 * TOKENS)
    assert meter.accounts["mixer"].flops == meter.accounts["train"].flops == 0


def test_evaluation_leaves_no_gradients_and_no_trace_on_the_model() -> None:
    """No graph is built, and the model stays in training mode."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, VOCABULARY))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.needed_graph: list[bool] = []

        def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
            logits = self.inner(input_ids)
            self.needed_graph.append(logits.requires_grad)
            return SimpleNamespace(logits=logits)

    wrapped = Wrapped()
    evaluator(a=counting(3)).evaluate(wrapped, Meter())

    assert wrapped.needed_graph == [False]
    assert wrapped.training
    assert model[0].weight.grad is None
