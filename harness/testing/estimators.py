"""What every implementation of the contract must pass, ours and users'.

A test module derives a class and says which implementation it is about:

    class TestGradDot(EstimatorContract):
        @pytest.fixture(params=[GradDot(), GradDot(queries="mean")], ids=["each", "mean"])
        def estimator(self, request):
            return request.param

The world is the tiny run of harness.testing.world after eight steps, so that AdamW has moments.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Batch, Mixer, Scores, State, View
from harness.domains import uniform
from harness.loop import Loop
from harness.testing import world as worlds
from harness.view import RunView


class _Uniform(Mixer):
    """Draws every domain alike."""

    def propose(self, view: View, state: State) -> Tensor:
        """Return equal weights [K]."""
        return uniform(len(view.domains))


class EstimatorContract:
    """Invariances, sign of nothing but the contract: accuracy is each estimator's own oracle."""

    relative: ClassVar[float] = 1e-4
    """Agreement of equal scores computed in another order, as a share of the largest one.

    Float32 sums: an estimator with finite differences may say so by a larger number, with a reason.
    """
    masked_scores_zero: ClassVar[bool] = True
    """A row without a target that counts has no gradient; an encoder or a kernel sees it anyway."""

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls, tmp_path_factory: pytest.TempPathFactory) -> Loop:
        """Return the tiny run after eight steps, attention written out so that torch counts it."""
        store = worlds.world(3).store
        spec = worlds.run_spec(store, mixer=_Uniform())
        loop = worlds.assemble_loop(spec, store, tmp_path_factory.mktemp("conformance"))
        loop.view.model.set_attn_implementation("eager")  # type: ignore[operator]
        return worlds.stepped(loop, 8)

    @pytest.fixture
    def view(self, world: Any) -> RunView:
        """Return its view."""
        view: RunView = world.view
        return view

    @pytest.fixture
    def estimator(self) -> Any:
        """Return what is tested."""
        raise NotImplementedError

    @pytest.fixture
    def fitted(self, estimator: Any, view: RunView) -> State:
        """Return what the estimator fits on its pool."""
        state: State = estimator.fit(view, view.candidates(8), view.probes(4))
        return state

    @pytest.fixture
    def rows(self, view: RunView) -> Batch:
        """Return nine rows, one with few counted targets and one with none."""
        rows = view.candidates(3)
        mask = rows.mask.clone()
        mask[1, 9:], mask[4] = False, False
        return replace(rows, mask=mask)

    @pytest.fixture
    def query(self, view: RunView) -> Batch:
        """Return two rows of each probe domain: the target's among them."""
        return view.probes(2)

    def same(self, found: Tensor, wanted: Tensor) -> None:
        """Assert that scores agree up to the order of sums."""
        size = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=self.relative, atol=self.relative * size)

    def test_scores_are_finite_float64_on_the_cpu(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """[N, Q], with a statement of what they mean, and states of tensors alone."""
        prepared = estimator.prepare(view, fitted, query)
        scores: Scores = estimator.score(view, prepared, rows)
        num_queries = len(query.rows) if estimator.queries == "each" else 1

        assert scores.total.shape == (len(rows.rows), num_queries)
        assert scores.total.dtype == torch.float64
        assert scores.total.device.type == "cpu"
        assert scores.total.isfinite().all()
        assert float(scores.total.abs().max()) > 0
        assert scores.about["estimator"] == estimator.kind
        assert all(isinstance(t, Tensor) for t in [*fitted.values(), *prepared.values()])

    def test_a_row_without_counted_targets_scores_nothing(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """Its loss is 0 wherever the parameters are."""
        if not self.masked_scores_zero:
            pytest.skip("this estimator looks at tokens, not at gradients")
        scores = estimator.score(view, estimator.prepare(view, fitted, query), rows).total

        assert (scores[4] == 0).all()

    def test_scores_do_not_depend_on_company_or_order(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """Rows per pass, rows in pieces, rows in another order."""
        prepared = estimator.prepare(view, fitted, query)
        wanted = estimator.score(view, prepared, rows).total
        order = torch.randperm(len(rows.rows), generator=torch.Generator().manual_seed(1))
        self.same(estimator.score(view, prepared, rows.select(order)).total, wanted[order])

        if estimator.kind != "group":  # whose score is about the rows that came together
            pieces = [
                estimator.score(view, prepared, rows.select(slice(i, i + 4))).total
                for i in range(0, len(rows.rows), 4)
            ]
            self.same(torch.cat(pieces), wanted)
        if "chunk_rows" in {f.name for f in fields(estimator)}:
            small = replace(estimator, chunk_rows=2)
            again = small.score(view, small.prepare(view, fitted, query), rows).total
            self.same(again, wanted)

    def test_queries_do_not_depend_on_company(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """Each query alone has the score that it has among others."""
        if estimator.queries != "each":
            pytest.skip("one query by definition")
        wanted = estimator.score(view, estimator.prepare(view, fitted, query), rows).total
        alone = [
            estimator.score(
                view, estimator.prepare(view, fitted, query.select(slice(i, i + 1))), rows
            ).total
            for i in range(3)
        ]

        self.same(torch.cat(alone, 1), wanted[:, :3])

    def test_what_the_mask_leaves_out_never_matters(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """Padding behind a row, and whatever stands in it, changes no score."""
        keep = 24
        rows = replace(rows, mask=rows.mask & (torch.arange(rows.mask.shape[1]) < keep))
        other = replace(
            rows,
            inputs=rows.inputs.clone().index_fill_(1, torch.arange(keep, 32), 7),
            targets=rows.targets.clone().index_fill_(1, torch.arange(keep, 32), 3),
        )
        cut = Batch(
            rows.inputs[:, :keep], rows.targets[:, :keep], rows.mask[:, :keep], rows.domains,
            rows.rows,
        )  # fmt: skip
        prepared = estimator.prepare(view, fitted, query)
        counted = rows.mask.any(1)
        wanted = estimator.score(view, prepared, rows).total[counted]

        self.same(estimator.score(view, prepared, other).total[counted], wanted)
        self.same(estimator.score(view, prepared, cut).total[counted], wanted)

    def test_the_run_is_left_alone(
        self, estimator: Any, view: RunView, rows: Batch, query: Batch
    ) -> None:
        """Parameters, grads, flags, hooks, moments, attention and generators: bit for bit."""
        model, generator = view.model, torch.get_rng_state()
        before = copy.deepcopy(model.state_dict())
        moments = copy.deepcopy(view.optimizer.state_dict()["state"])
        flags = [p.requires_grad for p in model.parameters()]

        fitted = estimator.fit(view, view.candidates(8), view.probes(4))
        kept = {name: value.clone() for name, value in fitted.items()}
        estimator.score(view, estimator.prepare(view, fitted, query), rows)

        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
        assert all(torch.equal(v, kept[n]) for n, v in fitted.items())
        for number, saved in view.optimizer.state_dict()["state"].items():
            assert all(torch.equal(saved[k], v) for k, v in moments[number].items())
        assert all(p.grad is None for p in model.parameters())
        assert [p.requires_grad for p in model.parameters()] == flags
        assert not model.training
        assert model.config._attn_implementation == "eager"  # type: ignore[union-attr]
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
        assert torch.equal(torch.get_rng_state(), generator)

    def test_two_calls_give_the_same_bits(
        self, estimator: Any, view: RunView, rows: Batch, query: Batch
    ) -> None:
        """Randomness is keyed by the run's seed and step."""
        found = [
            estimator.score(
                view,
                estimator.prepare(
                    view, estimator.fit(view, view.candidates(8), view.probes(4)), query
                ),
                rows,
            ).total
            for _ in range(2)
        ]

        assert torch.equal(*found)

    def test_the_bill_is_what_torch_counts(
        self, estimator: Any, view: RunView, rows: Batch, query: Batch
    ) -> None:
        """Within 5 % of FlopCounterMode, for each of the three calls."""
        account = view.meter.accounts["mixer"]

        def check(call: Any) -> Any:
            before = account.flops
            with FlopCounterMode(display=False) as counter:
                result = call()
            assert account.flops - before == pytest.approx(counter.get_total_flops(), rel=0.05)
            return result

        fitted = check(lambda: estimator.fit(view, view.candidates(8), view.probes(4)))
        prepared = check(lambda: estimator.prepare(view, fitted, query))
        check(lambda: estimator.score(view, prepared, rows))

    def test_what_is_not_finite_is_named(
        self, estimator: Any, view: RunView, fitted: State, rows: Batch, query: Batch
    ) -> None:
        """FloatingPointError with the row or the module in it, never a score."""
        prepared = estimator.prepare(view, fitted, query)
        broken = copy.deepcopy(view.model)
        with torch.no_grad():
            list(broken.parameters())[2].fill_(float("nan"))  # inside of the first block
        view = replace(view, model=broken)

        named = r"row \d+ of domain .* at step 8 .*first in the output of module \w"
        with pytest.raises(FloatingPointError, match=named):
            estimator.score(view, prepared, rows)
