"""EKFAC and its kin: against kronfluence by hand, dense Fishers, gradient dots, and themselves."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Batch
from harness.influence import along_queries, fisher, fisher_by_hooks, preconditioner
from harness.influence.conv1d import linear_copy
from harness.influence.ekfac import Ekfac
from harness.influence.factor_files import load_factors, save_factors
from harness.influence.gradients import GradDot
from harness.influence.selection import choose
from harness.testing import EstimatorContract
from harness.view import RunView
from tests.tiny import of_llama

LAST_MLP: dict[str, Any] = {"modules": ("mlp",), "last_blocks": 1}


def cut_short(rows: Batch) -> Batch:
    """Return the rows with one that has few counted targets, and one that has none."""
    mask = rows.mask.clone()
    mask[1, 9:], mask[4] = False, False
    return replace(rows, mask=mask)


def total(estimator: Ekfac, view: RunView, fitted: Any, rows: Batch, query: Batch) -> Tensor:
    """Return [N, Q]."""
    return estimator.score(view, estimator.prepare(view, fitted, query), rows).total


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    """Assert equality up to `tolerance` of the largest value."""
    size = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * size)


class TestHooksContract(EstimatorContract):
    """The invariances, with the fitter and the route that are ours."""

    @pytest.fixture(
        params=[
            Ekfac(fitter="hooks", damping=0.3),
            Ekfac(fitter="hooks", strategy="kfac", queries="target", route="hooks", **LAST_MLP),
            Ekfac(fitter="hooks", strategy="diagonal", reduction="sum", biases=False),
            Ekfac(fitter="hooks", strategy="identity"),
        ],
        ids=["ekfac", "kfac", "diagonal", "identity"],
    )
    def estimator(self, request: pytest.FixtureRequest) -> Any:
        """Return what is tested."""
        return request.param


class TestDirectionalContract(EstimatorContract):
    """The invariances of scores by finite differences."""

    relative: ClassVar[float] = 2e-3
    """Rounding of float32 losses, divided by the step."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return what is tested."""
        return Ekfac(fitter="hooks", queries="mean", route="directional")


class TestKronfluenceContract(EstimatorContract):
    """The invariances, with kronfluence fitting and scoring."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return what is tested."""
        return Ekfac(route="kronfluence", **LAST_MLP)

    @pytest.fixture(autouse=True)
    def whole_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count addmm_ too, in which kronfluence sums covariances: torch leaves it out."""

        def flops(total: Any, one: Any, other: Any, *_: Any, **__: Any) -> int:
            return int(2 * one[0] * one[1] * other[1])

        counter = partial(FlopCounterMode, custom_mapping={torch.ops.aten.addmm_: flops})
        monkeypatch.setattr("harness.testing.estimators.FlopCounterMode", counter)


def by_hand(view: RunView, names: list[str], pool: Batch, rows: Batch, query: Batch, folder: Path,
            strategy: str) -> Tensor:  # fmt: skip
    """Return kronfluence's own scores [N, Q] of sums over counted targets, without our code."""
    import kronfluence
    from transformers.pytorch_utils import Conv1D

    class Own(kronfluence.Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            assert not sample
            logits = model(input_ids=batch["inputs"]).logits
            losses = F.cross_entropy(
                logits.flatten(0, 1), batch["targets"].flatten(), reduction="none"
            )
            return (losses.view_as(batch["mask"]) * batch["mask"]).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    model = copy.deepcopy(view.model)
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.data.T, module.bias.data
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear)
    task = Own()
    analyzer = kronfluence.Analyzer(
        "own", kronfluence.prepare_model(model, task), task, True, disable_tqdm=True,
        output_dir=str(folder),
    )  # fmt: skip

    def data(batch: Batch) -> Any:
        keys = ("inputs", "targets", "mask")
        return [{k: getattr(batch, k)[i] for k in keys} for i in range(len(batch.rows))]

    arguments = kronfluence.FactorArguments(strategy=strategy, use_empirical_fisher=True)
    analyzer.fit_all_factors("f", data(pool), per_device_batch_size=8, factor_args=arguments)
    analyzer.compute_pairwise_scores(
        "s", "f", data(query), data(rows), per_device_query_batch_size=8,
        per_device_train_batch_size=8, score_args=kronfluence.ScoreArguments(damping_factor=None),
    )  # fmt: skip
    found: Tensor = analyzer.load_pairwise_scores("s")["all_modules"].T.double()
    return found


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Spare kronfluence's many garbage collections a look at all that the session has imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_scores_are_those_of_kronfluence_driven_by_hand(
    architecture: str, strategy: Any, view: RunView, tmp_path: Path
) -> None:
    """Ranks and values, of both fitters, over counted targets of row and query."""
    view = view if architecture == "gpt2" else of_llama(view)
    options: dict[str, Any] = {"modules": ("mlp",), "labels": "empirical", "reduction": "sum"}
    pool, rows, query = view.candidates(4), cut_short(view.candidates(3)), view.probes(1)
    names = [use.name for use in choose(view.model, ("mlp",))]
    with torch.random.fork_rng(devices=[]):
        wanted = by_hand(view, names, pool, rows, query, tmp_path, strategy)
    wanted = wanted / query.mask.sum(1)

    for fitter in ("kronfluence", "hooks"):
        estimator = Ekfac(strategy=strategy, fitter=fitter, **options)
        found = total(estimator, view, estimator.fit(view, pool), rows, query)
        close(found, wanted)
        kept = rows.mask.any(1)
        assert stats.spearmanr(found[kept].flatten(), wanted[kept].flatten())[0] > 0.9999


def test_both_fitters_find_the_same_factors(view: RunView) -> None:
    """Covariances, and lambdas in one basis, to float error; sampled labels, padding, no biases."""
    pool = cut_short(view.candidates(4))
    for biases in (True, False):
        theirs = Ekfac(modules=("mlp",), biases=biases)
        fitted, found = theirs.fit(view, pool), replace(theirs, fitter="hooks").fit(view, pool)
        uses = choose(view.model, ("mlp",), biases=biases)
        rows = fisher.countable(view, pool, "sampled")
        moments = fisher_by_hooks.second_moments(view, uses, rows, 5, fitted, "float32")
        for use in uses:
            for side in "AG":
                whole = [
                    s[f"{side}_vec:{use.name}"] @ s[f"{side}_val:{use.name}"].diag()
                    @ s[f"{side}_vec:{use.name}"].T for s in (fitted, found)
                ]  # fmt: skip
                close(whole[1], whole[0], 1e-5)
            close(moments[f"lambda:{use.name}"], fitted[f"lambda:{use.name}"], 1e-5)
        assert torch.equal(fitted["fitted"], torch.tensor([11, 1]))


def test_the_rotated_gradient_is_the_same_either_way() -> None:
    """Factors turned first, and gradients turned first; the bill follows the cheaper."""
    made = torch.Generator().manual_seed(0)
    g, a = torch.randn(2, 3, 4, generator=made), torch.randn(2, 3, 5, generator=made)
    left, right = torch.randn(4, 4, generator=made), torch.randn(5, 5, generator=made)
    long = torch.randn(2, 99, 4, generator=made), torch.randn(2, 99, 5, generator=made)
    for one, other in ((g, a), long):
        wanted = torch.einsum("bto,bti,op,ij->bpj", one, other, left, right)
        found = fisher_by_hooks._rotated(one, other, left, right)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_covariance_wider_than_a_block_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks above the diagonal are mirrored."""
    monkeypatch.setattr(fisher_by_hooks, "BLOCK", 3)
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = torch.zeros(8, 8)
    fisher_by_hooks._add_gram(found, rows)
    torch.testing.assert_close(fisher_by_hooks._mirrored(found), rows.T @ rows)


def test_labels_follow_the_model_and_depend_on_the_row_alone() -> None:
    """Frequencies within 4 standard errors of softmax; the same in another batch and order."""
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0]).expand(200, 50, 4)
    first = torch.arange(200) * 50
    found = fisher.drawn(logits, first, key=7)
    shares = found.flatten().bincount(minlength=4) / 10_000
    wanted = logits[0, 0].softmax(0)

    assert ((shares - wanted).abs() <= 4 * (wanted * (1 - wanted) / 10_000).sqrt()).all()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:20]
    assert torch.equal(fisher.drawn(logits[:20], first[order], 7), found[order])
    assert not torch.equal(fisher.drawn(logits, first, 8), found)


def test_the_copy_has_the_models_logits_and_nothing_of_its_own(view: RunView) -> None:
    """Conv1D transposed, biases kept or moved into a hook; the model is not touched."""
    rows = view.candidates(1).inputs
    state = torch.get_rng_state()
    for biases in (True, False):
        uses = choose(view.model, ("linear",), biases=biases)
        twin = linear_copy(view.model, uses)
        torch.testing.assert_close(twin(rows).logits, view.model(rows).logits)
        linears = [twin.get_submodule(use.name) for use in uses]
        assert all(type(linear) is nn.Linear for linear in linears)
        assert [linear.bias is not None for linear in linears] == [biases] * len(linears)
    assert torch.equal(torch.get_rng_state(), state)
    assert {use.kind for use in choose(view.model)} == {"conv1d"}


class OneLayer(nn.Module):
    """A frozen embedding and one linear layer: softmax regression on tokens."""

    def __init__(self, weight: Tensor, vectors: Tensor, bias: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias)
        self.head.weight.data.copy_(weight)
        if bias:
            self.head.bias.data.zero_()

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        """Return logits [B, T, V]."""
        return SimpleNamespace(logits=self.head(self.embedding(input_ids)))


def one_layer(view: RunView, inputs: Tensor, targets: Tensor, zero: bool) -> tuple[RunView, Batch]:
    """Return a view of softmax regression on 5 inputs and 4 outputs, and one-token rows."""
    made = torch.Generator().manual_seed(1)
    vectors, weight = torch.randn(5, 3, generator=made), torch.randn(4, 3, generator=made)
    model = OneLayer(weight * (not zero), vectors, bias=False)
    ones = torch.ones(len(inputs), 1, dtype=torch.bool)
    batch = Batch(
        inputs[:, None], targets[:, None], ones, torch.zeros_like(inputs), torch.arange(len(inputs))
    )
    return replace(view, model=model), batch


def dense(view: RunView, rows: Batch) -> Tensor:
    """Return each row's gradient, flat [N, P] float64, by autograd."""
    model: Any = view.model
    found = []
    for i in range(len(rows.rows)):
        logits = model(rows.inputs[i : i + 1]).logits[0]
        loss = F.cross_entropy(logits, rows.targets[i])
        (gradient,) = torch.autograd.grad(loss, [model.head.weight])
        found.append(gradient.flatten().double())
    return torch.stack(found)


@pytest.mark.parametrize("strategy", ["ekfac", "kfac"])
@pytest.mark.parametrize("fitter", ["kronfluence", "hooks"])
def test_on_one_linear_layer_they_are_the_exact_gauss_newton(
    strategy: Any, fitter: Any, view: RunView
) -> None:
    """With every label as often for every input, gradient and input are independent.

    The layer's weight is 0, so its output is uniform, and the mean over labels of g g^T is the
    Hessian of the loss by the output: the Fisher is the Gauss-Newton, and both factorise it.
    """
    inputs, targets = torch.cartesian_prod(torch.arange(5), torch.arange(4)).unbind(1)
    toy, rows = one_layer(view, inputs, targets, zero=True)
    gradients = dense(toy, rows)
    vectors = toy.model.embedding.weight.double()  # type: ignore[union-attr, operator]
    output = torch.eye(4).double() / 4 - 1 / 16  # diag(p) - p p^T at p = 1/4
    newton = torch.kron(output, vectors.T @ vectors / 5)
    torch.testing.assert_close(gradients.T @ gradients / 20, newton, rtol=1e-5, atol=1e-6)

    estimator = Ekfac(
        strategy=strategy, labels="empirical", modules=("head",), damping=0.02,
        damping_unit="absolute", fitter=fitter, route="hooks",
    )  # fmt: skip
    found = total(estimator, toy, estimator.fit(toy, rows), rows, rows)
    wanted = gradients @ torch.linalg.inv(newton + 0.02 * torch.eye(12)) @ gradients.T
    close(found, wanted, 1e-5)


def test_elsewhere_they_are_an_approximation(view: RunView) -> None:
    """The control: dependent inputs and gradients, and no equality."""
    made = torch.Generator().manual_seed(2)
    inputs, targets = (torch.randint(n, (30,), generator=made) for n in (5, 4))
    toy, rows = one_layer(view, inputs, targets, zero=False)
    gradients = dense(toy, rows)
    exact = gradients.T @ gradients / 30 + 0.02 * torch.eye(12)
    wanted = gradients @ torch.linalg.inv(exact) @ gradients.T
    for strategy in ("ekfac", "kfac"):
        estimator = Ekfac(
            strategy=strategy, labels="empirical", modules=("head",), damping=0.02,
            damping_unit="absolute", fitter="hooks", route="hooks",
        )  # fmt: skip
        found = total(estimator, toy, estimator.fit(toy, rows), rows, rows)
        assert float((found - wanted).abs().max()) > 0.02 * float(wanted.abs().max())


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
def test_the_inverse_undoes_the_matrix(strategy: Any) -> None:
    """(F + damping)^-1 (F + damping) v = v, the matrix built densely from the factors."""
    made = torch.Generator().manual_seed(0)
    state = {}
    for side, size in (("A", 4), ("G", 3)):
        rows = torch.randn(9, size, generator=made).double()
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        state |= {f"{side}_val:m": values, f"{side}_vec:m": vectors}
    state["lambda:m"] = torch.rand(3, 4, generator=made).double()
    basis = torch.kron(state["G_vec:m"], state["A_vec:m"])
    if strategy == "diagonal":
        basis = torch.eye(12).double()
    spectrum = preconditioner.spectrum(state, "m", strategy).flatten()
    damping = preconditioner.absolute(spectrum, 0.1, "relative")
    matrix = basis @ (spectrum + damping).diag() @ basis.T
    v = torch.randn(2, 3, 4, generator=made).double()

    image = (v.flatten(1) @ matrix).view_as(v)
    found, _ = preconditioner.precondition(image, state, "m", strategy, 0.1, "relative")
    torch.testing.assert_close(found, v)


@pytest.mark.parametrize("biases", [True, False])
def test_identity_is_the_gradient_dot(biases: bool, view: RunView) -> None:
    """Exactly up to float error, with biases and without, by hooks and by kronfluence."""
    rows, query = cut_short(view.candidates(3)), view.probes(1)
    dot = GradDot(preconditioner="none", biases=biases)
    wanted = dot.score(view, dot.prepare(view, {}, query), rows).total
    for route in ("hooks", "kronfluence"):
        estimator = Ekfac(strategy="identity", biases=biases, route=route)  # type: ignore[arg-type]
        close(total(estimator, view, estimator.fit(view, rows), rows, query), wanted, 1e-6)


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
def test_much_damping_gives_the_gradient_dot(strategy: Any, view: RunView) -> None:
    """Ranks equal, and values too once multiplied by the damping."""
    rows, query = view.candidates(3), view.probes(1)
    estimator = Ekfac(strategy=strategy, damping=1e6, damping_unit="absolute", fitter="hooks")
    found = total(estimator, view, estimator.fit(view, view.candidates(4)), rows, query)
    dot = GradDot(preconditioner="none")
    wanted = dot.score(view, dot.prepare(view, {}, query), rows).total

    for q in range(found.shape[1]):
        assert stats.spearmanr(found[:, q], wanted[:, q])[0] == pytest.approx(1)
    close(found * 1e6, wanted, 1e-5)


@pytest.mark.parametrize("queries", ["mean", "target"])
def test_one_query_is_scored_by_one_forward_pass(queries: Any, view: RunView) -> None:
    """The finite difference agrees with the exact form, with the base losses given or not."""
    estimator = Ekfac(fitter="hooks", queries=queries, strategy="kfac")
    fitted = estimator.fit(view, view.candidates(8))
    rows, query = cut_short(view.candidates(8)), view.probes(2)
    prepared = estimator.prepare(view, fitted, query)
    found = estimator.score(view, prepared, rows)
    account = view.meter.accounts["mixer"]
    base = view.token_losses(rows).double().sum(1) / rows.mask.sum(1).clamp(min=1)
    before = account.flops
    again = estimator.score(view, prepared, rows, base=base).total

    assert found.about["route"] == "directional"
    assert len(found.about["relative_step"]) == len(found.about["step_disagreement"]) == 1  # type: ignore[arg-type]
    assert found.about["trusted"] == 1
    assert torch.equal(again, found.total)
    assert account.flops - before == view.row_flops.forward * len(rows.rows)
    exact = total(replace(estimator, route="hooks"), view, fitted, rows, query)
    assert stats.spearmanr(found.total, exact)[0] > 0.999


def test_a_step_that_does_not_check_out_gives_way_to_the_exact_form(
    view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto: by record; directional by name: as asked."""
    monkeypatch.setattr(along_queries, "TRUSTED", 0.0)
    estimator = Ekfac(fitter="hooks", queries="mean", **LAST_MLP)
    fitted, rows = estimator.fit(view, view.candidates(4)), view.candidates(2)
    for route, used in (("auto", "hooks"), ("directional", "directional")):
        asked = replace(estimator, route=route)
        scores = asked.score(view, asked.prepare(view, fitted, view.probes(1)), rows)
        assert scores.about["route"] == used


def test_queries_combine_as_their_weights_say(view: RunView) -> None:
    """The mean query's score is the mean of scores, the target's the weighted sum."""
    estimator = Ekfac(fitter="hooks", route="hooks", **LAST_MLP)
    fitted, rows, query = (
        estimator.fit(view, view.candidates(4)),
        view.candidates(2),
        view.probes(2),
    )
    each = total(estimator, view, fitted, rows, query)
    mean = total(replace(estimator, queries="mean"), view, fitted, rows, query)
    target = total(replace(estimator, queries="target"), view, fitted, rows, query)
    close(mean, each.mean(1, keepdim=True), 1e-5)
    close(target, each[:, query.domains == 3].mean(1, keepdim=True), 1e-5)


def test_saved_factors_score_bit_for_bit(view: RunView, tmp_path: Path) -> None:
    """And their health is plain JSON with what a reader needs."""
    estimator = Ekfac(fitter="hooks", **LAST_MLP)
    rows, query, pool = view.candidates(2), view.probes(1), cut_short(view.candidates(4))
    fitted = estimator.fit(view, pool)
    health = estimator.health(fitted)
    save_factors(tmp_path, fitted, health)
    wanted = total(estimator, view, fitted, rows, query)

    assert torch.equal(total(estimator, view, load_factors(tmp_path), rows, query), wanted)
    assert json.loads((tmp_path / "health.json").read_text()) == health
    assert (health["rows"], health["skipped_rows"]) == (11, 1)
    table = health["modules"]["transformer.h.1.mlp.c_fc"]
    assert table["inputs"]["rung"] == "float64"
    assert table["spectrum"]["damping"] == pytest.approx(0.1 * table["spectrum"]["mean"])
    assert 0 < table["gradients"]["rank"] <= table["gradients"]["size"] == 128


def test_rows_without_targets_and_padding_never_enter_the_factors(view: RunView) -> None:
    """A row without counted targets is left out; what stands behind the last one is not seen."""
    estimator = Ekfac(fitter="hooks", labels="empirical", **LAST_MLP)
    pool = cut_short(view.candidates(3))
    other = replace(pool, inputs=pool.inputs.clone())
    other.inputs[1, 10:], other.inputs[4] = 5, 6
    fitted = [estimator.fit(view, p) for p in (pool, other, pool.select(pool.mask.any(1)))]
    for name in (n for n in fitted[0] if n.startswith(("A_val", "G_val", "lambda"))):
        close(fitted[1][name], fitted[0][name], 1e-5)
        close(fitted[2][name], fitted[0][name], 1e-5)
    with pytest.raises(ValueError, match="none of the 9 rows of the pool has a counted target"):
        estimator.fit(view, replace(pool, mask=torch.zeros_like(pool.mask)))


@pytest.mark.parametrize("fitter", ["kronfluence", "hooks"])
def test_a_loss_that_is_not_finite_stops_the_fit_by_row(fitter: Any, view: RunView) -> None:
    """With domain, row and step, before any factor is made."""
    pool = view.candidates(2)
    broken = copy.deepcopy(view.model)
    token = int(pool.inputs[3, 0])
    with torch.no_grad():
        broken.transformer.wte.weight[token] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(FloatingPointError, match=r"row \d+ of domain '.' at step 8 .* in the loss"):
        Ekfac(fitter=fitter, **LAST_MLP).fit(replace(view, model=broken), pool)


@pytest.mark.parametrize("fitter", ["kronfluence", "hooks"])
def test_a_float16_sum_that_overflows_is_named(fitter: Any, view: RunView) -> None:
    """Inputs of 3,000: finite themselves, their squares beyond float16."""
    large = copy.deepcopy(view.model)
    with torch.no_grad():
        large.transformer.h[1].ln_2.weight.fill_(3000.0)  # type: ignore[union-attr, index]
    estimator = Ekfac(fitter=fitter, covariance_dtype="float16", **LAST_MLP)
    wanted = r"inputs of module 'transformer.h.1.mlp.c_fc': \d+ of \d+ entries not finite; sum it"
    with pytest.raises(FloatingPointError, match=wanted):
        estimator.fit(replace(view, model=large), view.candidates(1))


def test_embeddings_and_tied_heads_are_refused_in_one_line(view: RunView) -> None:
    """kronfluence would track the head in silence, and not the embedding that shares its weight."""
    for modules in (("all",), ("lm_head",)):
        with pytest.raises(ValueError, match=r"no factors for the embedding 'transformer\.wte'"):
            Ekfac(modules=modules).fit(view, view.candidates(1))


def test_without_kronfluence_the_error_says_what_to_install(
    view: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And our own fitter goes on without it."""
    import sys

    monkeypatch.setitem(sys.modules, "kronfluence", None)
    with pytest.raises(ImportError, match=r'pip install "steelyard\[attribution\]"'):
        Ekfac(**LAST_MLP).fit(view, view.candidates(1))
    Ekfac(fitter="hooks", **LAST_MLP).fit(view, view.candidates(1))


def test_bfloat16_changes_little(view: RunView) -> None:
    """The network in bfloat16, factors in float32."""
    estimator = Ekfac(fitter="hooks", strategy="kfac", labels="empirical", **LAST_MLP)
    rows, query, pool = view.candidates(4), view.probes(1), view.candidates(4)
    wanted = total(estimator, view, estimator.fit(view, pool), rows, query)
    half = replace(estimator, precision="bfloat16")
    found = total(half, view, half.fit(view, pool), rows, query)
    assert not torch.equal(found, wanted)
    assert stats.spearmanr(found.flatten(), wanted.flatten())[0] > 0.99
