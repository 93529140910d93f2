"""Masked language modelling: exact shares, BERT's three ways, the same positions in all arms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.api import Batch
from harness.corruption import Corruption, uniforms
from harness.cost import Meter
from harness.evaluate import Evaluator
from harness.model import RowFlops
from harness.rng import generator
from harness.spec import Batching, Model
from tests.doubles import batch_of
from tests.harness.test_evaluate import BYTES, TOKENS, VOCABULARY, Guesser, Shelf, counting
from tests.tiny import MakeLoop, MakeSpec

HIDE = Corruption(rate=0.15, mask_token=500, vocab_size=500)


def rows(num_rows: int = 400, tokens: int = 100) -> Batch:
    """Return rows of random tokens."""
    made = torch.Generator().manual_seed(3)
    tokens_there = torch.randint(500, (num_rows, tokens), generator=made)
    return replace(batch_of([0] * num_rows, tokens), targets=tokens_there)


def hidden(batch: Batch, rate: float = 0.15, name: str = "x") -> Batch:
    """Return the batch, corrupted by a keyed generator."""
    num_rows, tokens = batch.targets.shape
    return replace(HIDE, rate=rate).apply(batch, uniforms(num_rows, tokens, generator(0, name)))


@pytest.mark.parametrize(("rate", "each"), [(0.15, 15), (0.5, 50), (0.001, 1), (0.999, 100)])
def test_each_row_has_its_share_and_at_least_one(rate: float, each: int) -> None:
    """The count is exact: rows weigh the same, and none has nothing to predict."""
    assert set(hidden(rows(), rate).mask.sum(1).tolist()) == {each}


def test_what_is_not_chosen_is_read_as_it_is() -> None:
    """Targets stay in place, and inputs are targets wherever nothing is predicted."""
    batch = rows()
    found = hidden(batch)

    assert torch.equal(found.targets, batch.targets)
    assert torch.equal(found.inputs[~found.mask], batch.targets[~found.mask])


def test_eight_in_ten_are_masked_one_is_random_and_one_is_kept() -> None:
    """Within four standard errors of BERT's shares, over 6,000 chosen positions."""
    found = hidden(rows())
    chosen, truth = found.inputs[found.mask], found.targets[found.mask]
    masked, kept = chosen == HIDE.mask_token, chosen == truth
    random = ~masked & ~kept

    for share, wanted in ((masked, 0.8), (kept, 0.1), (random, 0.1)):
        error = (wanted * (1 - wanted) / len(chosen)) ** 0.5
        assert float(share.double().mean()) == pytest.approx(wanted, abs=4 * error + 0.001)
    assert int(chosen[random].max()) < HIDE.vocab_size
    assert len(chosen[random].unique()) > 300


def test_only_counted_targets_are_hidden() -> None:
    """A prompt is read and never predicted; a row without a counted target has none afterwards."""
    batch = rows(20)
    mask = torch.zeros_like(batch.mask)
    mask[:10, 60:] = True
    mask[10:19, 99:] = True
    found = hidden(replace(batch, mask=mask))

    assert not bool((found.mask & ~mask).any())
    assert found.mask.sum(1).tolist() == [6] * 10 + [1] * 9 + [0]


def test_positions_are_spread_evenly_and_follow_the_key() -> None:
    """Every position is hidden about as often; another key hides others, the same key the same."""
    found = hidden(rows(2000, 20), 0.2)
    often = found.mask.double().mean(0)

    assert float((often - 0.2).abs().max()) < 4 * (0.2 * 0.8 / 2000) ** 0.5
    assert torch.equal(hidden(rows()).mask, hidden(rows()).mask)
    assert not torch.equal(hidden(rows()).mask, hidden(rows(), name="y").mask)


MASKED = Model(architecture="bert", objective="masked", config={"hidden_size": 32})


def test_the_stream_hides_by_data_seed_and_step(make_spec: MakeSpec, make_loop: MakeLoop) -> None:
    """Arms hide the same tokens of the same rows, other steps and orders others."""
    spec = make_spec(model=MASKED)
    one, same = make_loop(spec), make_loop(replace(spec, seed=5))
    other = make_loop(replace(spec, data_seed=5))
    weights, seen = one.view.prior, one.view.seen

    def draw(loop, step: int = 0) -> Batch:  # type: ignore[no-untyped-def]
        return loop.stream.draw(weights, seen.clone(), step, 8)  # type: ignore[no-any-return]

    assert torch.equal(draw(one).inputs, draw(same).inputs)
    assert torch.equal(draw(one).mask, draw(same).mask)
    assert not torch.equal(draw(one).mask, draw(one, 1).mask)
    assert not torch.equal(draw(one).mask, draw(other).mask)
    fixed, fresh = one.view.probes(3, fixed=True), one.view.probes(3)
    one.view.step = 1
    assert torch.equal(one.view.probes(3, fixed=True).inputs, fixed.inputs)
    assert not torch.equal(one.view.probes(3).mask, fresh.mask)
    assert set(one.view.candidates(2).mask.sum(1).tolist()) == {5}  # 15 % of 32 tokens
    assert int(draw(one).inputs.max()) == one.view.model.config.vocab_size - 1  # type: ignore[operator, union-attr]
    assert int(draw(one).targets.max()) < one.view.model.config.vocab_size - 1  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_masked_run_learns(architecture: str, make_spec: MakeSpec, make_loop: MakeLoop) -> None:
    """Its held-out loss falls from that of a uniform guess, in micro-batches too."""
    model = replace(MASKED, architecture=architecture)  # type: ignore[arg-type]
    loop = make_loop(
        make_spec(model=model, num_steps=40, batch=Batching(rows=8, tokens=32, micro_rows=4))
    )
    loop.run()

    evals = [r for r in loop.watch.records if r["kind"] == "eval" and r["domain"] == "a"]  # type: ignore[attr-defined]
    first, last = evals[0], evals[-1]
    assert first["nats_per_token"] == pytest.approx(6.24, abs=0.25)  # log 513
    assert last["nats_per_token"] < first["nats_per_token"] - 0.3
    assert first["num_tokens"] == 4 * 5
    assert last["num_bytes"] == first["num_bytes"] < 4 * 32 * 4


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_evaluation_hides_the_same_tokens_however_it_is_cut(chunk_rows: int) -> None:
    """Fixed in every arm, seed and step; bytes are those of the hidden targets."""
    streams = {"a": counting(7)}
    model = Guesser(1.0)
    check = Evaluator(
        {"heldout": Shelf(streams, TOKENS)}, ("a",), 64, chunk_rows,
        {"heldout": {"a": BYTES[streams["a"]]}}, RowFlops(1.0, 2.0), "cpu", "float32",
        Corruption(0.5, VOCABULARY - 1, VOCABULARY - 1),
    )  # fmt: skip
    (record,) = check.evaluate(model, Meter())
    seen = torch.cat(model.seen)

    whole = Evaluator(**{**vars(check), "chunk_rows": 100})
    again = Guesser(1.0)
    (expected,) = whole.evaluate(again, Meter())
    assert torch.equal(seen, torch.cat(again.seen))
    assert record["num_tokens"] == 14
    assert record["num_bytes"] == expected["num_bytes"] < int(BYTES[streams["a"][1:]].sum())
    assert record["nats_per_token"] == pytest.approx(expected["nats_per_token"], rel=1e-12)
