"""A refresh: which rows serve what, when an estimator is fitted anew, and when it is stale."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import Tensor, nn

from harness.api import Batch, Scores, State
from harness.influence import fidelity
from harness.influence.directional_estimator import Directional
from harness.influence.directional_forms import _by_modules
from harness.influence.ekfac import Ekfac
from harness.influence.fidelity import compared, spearman
from harness.influence.gradients import GradCos, GradDot, Group
from harness.influence.influcoder import Influcoder
from harness.influence.landmark import HiddenLandmark
from harness.influence.rebalancing import of_each, refresh, standard_errors
from harness.view import RunView
from tests.doubles import batch_of
from tests.harness.influence.test_directional_estimator import Odd
from tests.harness.influence.test_row_gradients import build, shifted


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An estimator that scores by row number, and remembers at which step it was fitted."""

    sign: float = 1.0
    queries: str = "each"
    kind: ClassVar[str] = "kept"

    def about(self) -> dict[str, Any]:
        """Say what a score means."""
        return {"preconditioner": "adam", "approximates": "grad_dot", "reduction": "mean"}

    def fit(self, view: RunView, pool: Batch, queries: Batch | None = None) -> State:
        """Keep the rows of the pool and of the queries."""
        assert queries is not None
        return {"pool": pool.rows.clone(), "own": queries.rows.clone(), "at": torch.tensor(1.0)}

    def prepare(self, view: RunView, fitted: State, query: Batch) -> State:
        """Take the exact scores' own state: this estimator is right, or exactly wrong."""
        return GradDot(queries="target", modules=("all",)).prepare(view, {}, query)

    def score(self, view: RunView, prepared: State, rows: Batch) -> Scores:
        """Return the exact scores, or their negatives."""
        exact = GradDot(queries="target", modules=("all",)).score(view, prepared, rows)
        return Scores(self.sign * exact.total, about={"estimator": "kept"})


@dataclass(frozen=True, kw_only=True)
class Stales(Kept):
    """One with a limit of its own."""

    stale_below: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule."""

    estimator: Any = Kept()
    rows: int = 4
    pool_rows: int = 0
    probe_rows: int = 2
    probes: str = "fresh"
    refit: int = 1
    fidelity_every: int = 2
    fidelity_rows: int = 5
    stale_below: float = 0.0


def test_rows_by_their_place_in_their_domain() -> None:
    """The second and third row of each domain, where there are as many."""
    batch = batch_of([0, 1, 0, 1, 0, 2])

    assert of_each(batch, 1, 3).rows.tolist() == [2, 3, 4]
    assert of_each(batch, 0, 1).rows.tolist() == [0, 1, 5]


def test_scored_pool_compared_and_query_rows_are_told_apart(view: RunView) -> None:
    """Compared rows are in no pool, the estimator's own queries are not the query."""
    state: State = {}
    plan = Plan(refit=0, pool_rows=6)
    found = refresh(view, state, plan, 0)

    assert found.scores.shape == (4 * 3,)
    assert found.fidelity["rows"] == 5 * 3
    pool = state["fitted:pool"].view(3, 6)
    assert torch.equal(found.rows.rows.view(3, 4), pool[:, :4])  # a keyed draw's beginning
    drawn = view.candidates(11).rows.view(3, 11)
    assert torch.equal(drawn[:, :6], pool)
    target = view.probe_domains.index("d")
    assert set(found.query.domains.tolist()) == {target}
    own = state["fitted:own"].view(4, 2)[target]
    assert not set(own.tolist()) & set(found.query.rows.tolist())


def test_an_exact_estimator_agrees_with_the_exact_one(view: RunView) -> None:
    """Every figure of a comparison, and what it cost."""
    found = refresh(view, {}, Plan(), 0)

    facts = found.fidelity
    assert facts["spearman"] == pytest.approx(1.0)
    assert facts["domain_spearman"] == pytest.approx(1.0)
    assert (facts["same_best"], facts["stale"], facts["exact"]) == (1, 0, "grad_dot")
    assert facts["estimator"] == "kept"
    assert facts["scores"] == pytest.approx(facts["exact_scores"])
    # it scored 12 rows and was compared on 15, both with the same query
    ratio = float(facts["exact_flops"]) / float(facts["estimator_flops"])  # type: ignore[arg-type]
    assert 1.0 < ratio < 15 / 12


def test_exact_scores_are_of_what_the_run_trains_by(view: RunView) -> None:
    """In bfloat16 where it trains in it, which is on record, and hardly another order."""
    half = replace(view, precision="bfloat16")
    fine, rough = (refresh(v, {}, Plan(fidelity_rows=8), 0).fidelity for v in (view, half))

    assert (fine["exact_precision"], rough["exact_precision"]) == ("float32", "bfloat16")
    assert fine["spearman"] == 1.0
    assert 0.98 < float(rough["spearman"]) <= 1.0  # type: ignore[arg-type]
    assert rough["exact_scores"] != fine["exact_scores"]


def test_comparisons_come_every_so_many_refreshes(view: RunView) -> None:
    """The first and each second after it; none where none is asked for."""
    compared = [bool(refresh(view, {}, Plan(), n).fidelity) for n in range(4)]

    assert compared == [True, False, True, False]
    assert not refresh(view, {}, Plan(fidelity_every=0), 0).fidelity


def test_a_fit_is_kept_for_as_long_as_it_is_asked_for(view: RunView) -> None:
    """Once, or for two refreshes; made anew each time it leaves nothing in the state."""
    for refit, fits in ((0, [True, False, False]), (2, [True, False, True])):
        state: State = {}
        for number, fit in enumerate(fits):
            if state:
                state["fitted:at"] = torch.tensor(-1.0)
            refresh(view, state, Plan(refit=refit, fidelity_every=0), number)
            assert (float(state["fitted:at"]) > 0) == fit
    state = {}
    refresh(view, state, Plan(), 0)
    assert not state


def test_a_stale_fit_is_noted_and_made_anew(view: RunView) -> None:
    """A kept fit is looked at at each refresh; a good one is not touched."""
    state: State = {}
    good = Plan(refit=0, stale_below=0.5, fidelity_every=0)
    refresh(view, state, good, 0)
    state["fitted:at"] = torch.tensor(-1.0)

    assert refresh(view, state, good, 1).fidelity["stale"] == 0
    assert float(state["fitted:at"]) < 0
    wrong = replace(good, estimator=Kept(sign=-1.0))
    found = refresh(view, state, wrong, 2)
    assert found.fidelity["stale"] == 1
    assert float(state["fitted:at"]) > 0
    # the new fit is compared too, and all of it is in the price
    assert found.fidelity["spearman_anew"] == pytest.approx(-1.0)
    assert float(found.fidelity["estimator_flops"]) > float(found.about["flops"])  # type: ignore[arg-type]


def test_a_fresh_fit_that_does_not_follow_says_so(view: RunView) -> None:
    """There is no better one to make; it is compared at every refresh where a limit is set."""
    plan = Plan(stale_below=0.5, fidelity_every=0, estimator=Kept(sign=-1.0))

    for number in (0, 1):
        fidelity = refresh(view, {}, plan, number).fidelity
        assert (fidelity["stale"], fidelity["below"]) == (0, 0.5)


def test_an_estimator_that_says_when_it_is_stale_is_always_compared(view: RunView) -> None:
    """Its own limit holds where the plan has none."""
    one = Stales()

    assert all(refresh(view, {}, Plan(estimator=one, fidelity_every=0), n).fidelity for n in (0, 1))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", [GradDot, Group])
def test_an_exact_estimator_agrees_with_itself_in_either_reduction(
    kind: Any, reduction: str, view: RunView
) -> None:
    """Sums are compared with sums: rows of unequal counts rank otherwise by means."""
    rows, query = view.candidates(4), view.probes(2)
    mask = rows.mask.clone()
    for i in range(len(mask)):
        mask[i, 4 + 2 * i :] = False
    rows = replace(rows, mask=mask)
    query = query.select((view.targets[query.domains] > 0).nonzero()[:, 0])
    estimator = kind(queries="target", modules=("all",), reduction=reduction)
    prepared = estimator.prepare(view, estimator.fit(view, rows), query)
    scores = estimator.score(view, prepared, rows).total[:, 0]

    assert compared(view, estimator, rows, query, scores)["spearman"] == pytest.approx(1.0)


def of_family(view: RunView, kind: str) -> RunView:
    """Return a view of a random model of a family, which has no moments."""
    vocabulary = view.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    model = build(kind, vocabulary).float()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # as harness.model.build_model leaves it
    return replace(view, model=model)


ATTENTION = 2 * 2 * (12 * 12 + 12 * 6)  # of Mixtral's two blocks: all that "linear" covers
PLAIN: dict[str, Any] = {"preconditioner": "none"}


@pytest.mark.parametrize(
    "estimator",
    [
        GradDot(**PLAIN),
        GradCos(**PLAIN),
        Group(**PLAIN),
        HiddenLandmark(landmarks=3, **PLAIN),
        Directional(modules=("linear",), **PLAIN),
        Ekfac(strategy="identity", route="hooks"),
        Ekfac(strategy="identity", route="directional"),
        Influcoder(epochs=1, holdout=0.0),
    ],
    ids=["dot", "cos", "group", "landmark", "directional", "hooks", "differences", "influcoder"],
)
@pytest.mark.filterwarnings("ignore:modules. linear leaves out")
def test_every_record_tells_what_an_estimator_leaves_out(view: RunView, estimator: Any) -> None:
    """Experts, and what is covered instead; nothing is said where nothing is left out."""
    rows, query = view.candidates(2), view.probes(1)
    told = {}
    for kind in ("mixtral", "llama"):
        one = of_family(view, kind)
        prepared = estimator.prepare(one, estimator.fit(one, rows, query), query)
        told[kind] = estimator.score(one, prepared, rows).about
        size = sum(parameter.numel() for parameter in one.model.parameters())
        if kind == "mixtral":
            assert told[kind]["left_out"] == 6
            assert told[kind]["covered"] == pytest.approx(ATTENTION / size)

    assert set(told["mixtral"]) - set(told["llama"]) == {"left_out", "covered"}


def test_a_tied_scaled_embedding_is_compared_like_any_other(view: RunView) -> None:
    """Gemma's: a plain run's first comparison, of all that is linear or an embedding."""
    plan = Plan(estimator=Directional(preconditioner="none"))

    facts = refresh(of_family(view, "gemma"), {}, plan, 0).fidelity

    assert facts["exact_modules"] == "all"
    assert float(facts["exact_covered"]) > 0.98  # type: ignore[arg-type]
    assert float(facts["spearman"]) > 0.99  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "modules"), [("shifted", "linear"), ("mixtral", "all")])
def test_where_less_is_understood_the_same_parameters_are_compared(
    view: RunView, kind: str, modules: str
) -> None:
    """A tied weight of an unknown module, and experts: on record, and no estimator's fault."""
    odd = of_family(view, "llama" if kind == "shifted" else kind)
    if kind == "shifted":
        shifted(odd.model)
    plan = Plan(estimator=Directional(preconditioner="none"), fidelity_rows=8)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "modules: all leaves out")
        facts = refresh(odd, {}, plan, 0).fidelity

    assert facts["exact_modules"] == modules
    assert 0.1 < float(facts["exact_covered"]) < 0.8  # type: ignore[arg-type]
    assert float(facts["spearman"]) > 0.99  # type: ignore[arg-type]


def test_where_nothing_is_understood_a_run_goes_on_without_a_comparison(view: RunView) -> None:
    """It says so."""
    odd = of_family(view, "llama")
    for block in shifted(odd.model).model.layers:
        for part in (block.self_attn, block.mlp):
            for name, layer in part.named_children():
                if isinstance(layer, nn.Linear):
                    setattr(part, name, Odd(layer.in_features, layer.out_features))

    found = refresh(odd, {}, Plan(estimator=Directional(preconditioner="none")), 0)

    assert found.scores.shape == (4 * 3,)
    assert found.fidelity == {}
    *_, note = [note for note in odd.notes if note["name"] == "not_compared"]
    assert "row gradients are not known" in note["values"]["reason"]


def test_rank_correlation_by_hand() -> None:
    """Ties share their mean rank; a flat vector correlates with nothing."""
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0])

    assert spearman(rising, rising.exp()) == pytest.approx(1.0)
    assert spearman(rising, -rising) == pytest.approx(-1.0)
    # ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5)
    tied = torch.tensor([0.0, 7.0, 7.0, 9.0])
    assert spearman(tied, rising) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman(torch.ones(4), rising) == 0.0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_ranks_are_scipys(values: list[int]) -> None:
    """Ties and all."""
    found = fidelity._ranks(torch.tensor(values, dtype=torch.float64))

    assert found.tolist() == rankdata(values).tolist()


def test_a_run_is_not_billed_for_the_import_of_statistics() -> None:
    """It takes a second, which a first refresh would be billed."""
    code = "import sys, torch; from harness.influence.fidelity import spearman; "
    code += "spearman(torch.arange(3.0), torch.arange(3.0)); print('scipy' in sys.modules)"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "False"


def test_standard_errors_by_hand() -> None:
    """(1, 3): sd sqrt 2 over sqrt 2; a single row has none."""
    batch = batch_of([0, 0, 1])

    errors = standard_errors(torch.tensor([1.0, 3.0, 5.0]).double(), batch, 3)

    assert errors == pytest.approx([1.0, 0.0, 0.0])


class Sent(nn.Module):
    """Experts in a list, each of which sees the tokens that a router sends to it."""

    def __init__(self, size: int) -> None:
        """Make a router and three experts."""
        super().__init__()
        self.router = nn.Linear(size, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(3))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return each token's expert's output."""
        flat = hidden.flatten(0, -2)
        best = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            chosen = (best.indices == number).nonzero()[:, 0]
            out = out.index_add(0, chosen, expert(flat[chosen]) * best.values[chosen, None])
        return out.view_as(hidden)


def test_experts_whose_tokens_are_of_no_row_that_can_be_told_are_refused_and_noted(
    view: RunView,
) -> None:
    """As many tokens as divide by the rows would else be taken for theirs."""
    sent = of_family(view, "llama")
    for block in sent.model.model.layers:
        block.mlp = Sent(sent.model.config.hidden_size)
    rows = view.candidates(2)

    with pytest.raises(ValueError, match=r"experts\.\d: an output .* row gradients of it are not"):
        GradDot(preconditioner="none").prepare(sent, {}, rows)
    along = {name: torch.ones_like(p) for name, p in sent.model.named_parameters()}
    assert _by_modules(sent, rows, along) is None
    found = refresh(sent, {}, Plan(estimator=Directional(preconditioner="none")), 0)

    assert found.fidelity == {}
    *_, note = [note for note in sent.notes if note["name"] == "not_compared"]
    assert "row gradients of it are not known" in note["values"]["reason"]


def test_a_matrix_outside_of_the_blocks_is_compared_by_neither(view: RunView) -> None:
    odd = of_family(view, "llama")
    odd.model.lm_head = Odd(*reversed(odd.model.lm_head.weight.shape))

    facts = refresh(odd, {}, Plan(estimator=Directional(preconditioner="none")), 0).fidelity

    assert facts["exact_modules"] == "all"
    assert float(facts["spearman"]) > 0.99  # type: ignore[arg-type]
