"""Landmark estimators: the contract, the exact scores in the limit, and what draws are keyed by."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from harness.api import Batch
from harness.influence import factors, projected
from harness.influence.gradients import GradCos, GradDot
from harness.influence.landmark import SEED000, HiddenLandmark, JvpLandmark
from harness.influence.projections import CountSketch
from harness.influence.selection import choose
from harness.model import token_losses
from harness.testing import EstimatorContract
from harness.view import RunView


class TestJvpLandmark(EstimatorContract):
    """One block, the last token."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return the published method, small."""
        return JvpLandmark(landmarks=16, layers=1)


class TestJvpLandmarkOfTheTarget(EstimatorContract):
    """All blocks, the mean, a projected embedding, the target as the one query."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return another end of the options."""
        return JvpLandmark(
            landmarks=12,
            layers=0,
            pooling="mean",
            embedding_dims=24,
            queries="target",
            normalize=False,
            modules=("all",),
            tangents=3,
        )


class TestHiddenLandmark(EstimatorContract):
    """No derivative."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return the defaults, with a landmark for every other row."""
        return HiddenLandmark(landmarks=12)


class TestTheSeedsRule(EstimatorContract):
    """Hidden states, the linear kernel, the embeddings' own gradients."""

    relative = 1e-2
    """The kernel of 16 rows is nearly singular: the ridge of 1e-4 multiplies rounding."""

    @pytest.fixture
    def estimator(self) -> Any:
        """Return what seed 000 did, but for its frozen landmarks and its weights' rule."""
        return SEED000


def scores(estimator: Any, view: RunView, pool: Batch, query: Batch, rows: Batch) -> Tensor:
    """Return [N, Q]."""
    prepared = estimator.prepare(view, estimator.fit(view, pool), query)
    total: Tensor = estimator.score(view, prepared, rows).total
    return total


@pytest.mark.parametrize("kind", [JvpLandmark, HiddenLandmark])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("modules", [("linear",), ("all",)])
def test_every_row_a_landmark_gives_the_smoother_of_exact_scores(
    kind: Any, normalize: bool, modules: tuple[str, ...], view: RunView
) -> None:
    """K (K + ridge)^-1 of grad_cos or grad_dot, and these themselves as the damping goes."""
    rows, query = view.candidates(6), view.probes(1)
    exact: Any = (GradCos if normalize else GradDot)(modules=modules)
    wanted = scores(exact, view, rows, query, rows)
    options: dict[str, Any] = {"landmarks": len(rows.rows), "layers": 1, "dims": 0}
    estimator = kind(**options, modules=modules, normalize=normalize, damping=0.3)

    fitted = estimator.fit(view, rows)
    found = estimator.score(view, estimator.prepare(view, fitted, query), rows).total
    points = fitted["landmarks"]
    kernel = (-torch.cdist(points, points).square() / (2 * fitted["bandwidth"] ** 2)).exp()
    smoother = kernel @ torch.linalg.inv(kernel + 0.3 * torch.eye(len(points)))

    size = float(wanted.abs().max())
    torch.testing.assert_close(found, smoother @ wanted, rtol=0, atol=1e-5 * size)
    close = scores(replace(estimator, damping=1e-10), view, rows, query, rows)
    torch.testing.assert_close(close, wanted, rtol=0, atol=1e-4 * size)


def test_projected_gradients_keep_cosines_and_exact_lengths(view: RunView) -> None:
    """The sketch of the scaled gradient, tied parts added, normalised by the length before it."""
    rows = view.candidates(4)
    uses = choose(view.model, ("all",))
    names = {name for use in uses for name in (use.weight, use.bias) if name}
    sizes = {n: p.numel() for n, p in view.model.named_parameters() if n in names}
    scale = {n: torch.full_like(p, 3.0) for n, p in view.model.named_parameters()}
    recipes = [
        projected.Recipe(uses, p, scale, "mean", 5)
        for p in (projected.Whole(sizes), CountSketch(4096))
    ]

    whole, sketch = (projected.projected_rows(view, rows, recipe) for recipe in recipes)

    parameters = dict(view.model.named_parameters())
    loss = token_losses(view.model, rows.select(slice(7, 8))).mean()
    own = torch.autograd.grad(loss, [parameters[n] for n in sizes])
    torch.testing.assert_close(
        whole.vectors[7], 3 * torch.cat([g.flatten() for g in own]), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(whole.lengths, whole.vectors.double().norm(dim=1))
    torch.testing.assert_close(sketch.lengths, whole.lengths)
    cosines = [one.normalised() @ one.normalised().T for one in (whole, sketch)]
    assert float((cosines[0] - cosines[1]).abs().mean()) < 2 / 4096**0.5


def test_a_mean_query_is_the_mean_of_gradients(view: RunView) -> None:
    """Summed exactly before it is projected, its length too; rows without weight are left out."""
    rows = view.candidates(3)
    weights = torch.zeros(2, 9, dtype=torch.float64)
    weights[0, :4], weights[1, 2] = 0.25, 1.0
    recipe = projected.Recipe(choose(view.model, ("all",)), CountSketch(512), {}, "mean", 2)

    found = projected.projected_means(view, rows, weights, recipe)

    each = projected.projected_rows(view, rows, recipe)
    torch.testing.assert_close(found.vectors, weights.float() @ each.vectors, rtol=1e-3, atol=1e-6)
    assert float(found.lengths[1]) == pytest.approx(float(each.lengths[2]), rel=1e-5)
    assert float(found.lengths[0]) < float(each.lengths[:4].mean())


def test_landmarks_are_drawn_anew_at_each_step_and_the_same_in_each_process(
    view: RunView,
) -> None:
    """Uniformly, without replacement, among rows in which something counts, keyed by the step."""
    rows = view.candidates(8)
    mask = rows.mask.clone()
    mask[::2] = False
    estimator = HiddenLandmark(landmarks=10, layers=1)
    chosen = estimator.fit(view, replace(rows, mask=mask))["chosen"]

    assert len(set(chosen.tolist())) == 10
    assert (chosen % 2 == 1).all()
    assert torch.equal(estimator.fit(view, replace(rows, mask=mask))["chosen"], chosen)
    later = replace(view, step=view.step + 1)
    assert not torch.equal(estimator.fit(later, replace(rows, mask=mask))["chosen"], chosen)
    with pytest.raises(ValueError, match="landmarks is 13; the pool has 12 rows with counted targ"):
        HiddenLandmark(landmarks=13).fit(view, replace(rows, mask=mask))


def scores_of_a_run(folder: Path) -> list[float]:
    """Train one step and return some scores."""
    from harness.corpus import open_corpus
    from tests import tiny

    store = open_corpus(tiny.corpus_spec(), folder / "corpora")
    loop = tiny.assemble_loop(tiny.run_spec(store), store, folder / "run")
    loop.start()
    loop.step()
    loop.close()
    rows, query = loop.view.candidates(4), loop.view.probes(1)
    found = scores(JvpLandmark(landmarks=8, layers=1), loop.view, rows, query, rows)
    return [float(value) for value in found.flatten()[:5]]


@pytest.mark.slow
def test_another_process_gives_the_same_scores(tmp_path: Path) -> None:
    """Bit for bit, with another hash seed: no randomness but what is keyed."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.harness.influence.test_landmark import scores_of_a_run\n"
        "print(scores_of_a_run(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "there")]
    there = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert there.stdout.strip() == str(scores_of_a_run(tmp_path / "here"))


def test_a_query_does_not_enter_the_fit(view: RunView) -> None:
    """The state is the same with and without queries."""
    rows = view.candidates(6)
    one = JvpLandmark(landmarks=8, layers=1).fit(view, rows, view.probes(1))
    other = JvpLandmark(landmarks=8, layers=1).fit(view, rows)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_landmark_that_is_not_finite_is_named(view: RunView) -> None:
    """By row, domain, step and module."""
    broken = copy.deepcopy(view.model)
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(FloatingPointError, match=r"row \d+ of domain '.' at step 8 .* in loss"):
        JvpLandmark(landmarks=8, layers=1, preconditioner="none").fit(
            replace(view, model=broken), view.candidates(4)
        )


def test_memory_of_row_gradients_is_flat(view: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of one parameter's row gradients is formed than FORMED numbers, or one row."""
    sizes: list[int] = []
    plain = factors.materialised

    def watched(use: Any) -> Any:
        value = plain(use)
        sizes.append(value[0].numel())
        return value

    monkeypatch.setattr(projected, "materialised", watched)
    monkeypatch.setattr(projected, "FORMED", 8192)
    wanted = JvpLandmark(landmarks=8, layers=1, modules=("all",)).fit(view, view.candidates(4))
    monkeypatch.undo()

    assert max(sizes) == 512 * 32  # a row of the embeddings' gradient
    again = JvpLandmark(landmarks=8, layers=1, modules=("all",)).fit(view, view.candidates(4))
    torch.testing.assert_close(wanted["gradients"], again["gradients"])


def test_landmarks_are_of_the_network_as_it_trains(view: RunView) -> None:
    """In bfloat16 where the run is: float32's gradients but for rounding, and still float32.

    Without Adam's factor, which after eight steps makes much of parameters with hardly a gradient.
    """
    estimator = HiddenLandmark(landmarks=8, modules=("all",), queries="mean", preconditioner="none")
    half = replace(view, precision="bfloat16")
    pool, query = view.candidates(4), view.probes(2)

    fine, rough = (estimator.fit(v, pool)["gradients"] for v in (view, half))
    scores = [
        estimator.score(v, estimator.prepare(v, estimator.fit(v, pool), query), pool).total
        for v in (view, half)
    ]

    assert fine.dtype == rough.dtype == torch.float32
    for one, other in ((fine, rough), scores):
        assert 0 < float((one - other).norm() / one.norm()) < 0.02


def test_estimators_are_settings() -> None:
    """Read from a file by kind; wrong keys and values are errors; they say what they are."""
    read: Any = TypeAdapter(JvpLandmark | HiddenLandmark)
    found = read.validate_python({"kind": "hidden_landmark", "landmarks": 8})
    assert found == HiddenLandmark(landmarks=8)
    for wrong in ({"landmark": 3}, {"landmarks": 0}, {"damping": float("inf")}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="validation error"):
            JvpLandmark(**wrong)
    about = JvpLandmark().about()
    assert about["estimator"] == "jvp_landmark"
    assert about["approximates"] == "grad_cos"
    assert "written out" in str(about["attention"])
    assert SEED000.about()["approximates"] == "grad_dot"
