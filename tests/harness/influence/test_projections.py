"""Projections keep inner products: without bias, with the error that theory gives, in any order."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from harness.influence import projections
from harness.influence.counter_hash import integers, signs, words
from harness.influence.projections import (
    CountSketch,
    Gaussian,
    LoGra,
    Projection,
    Rademacher,
    project_rows,
    with_bias,
)

FLAT = [CountSketch, Gaussian, Rademacher]


class NaiveSketch:
    """The sketch that is not to be: place = coordinate mod num_dims, with good signs."""

    def __init__(self, num_dims: int, seed: int) -> None:
        self.num_dims, self.seed = num_dims, seed

    def project(self, name: str, gradient: Tensor) -> Tensor:
        count = gradient.shape[1]
        signed = gradient * signs(self.seed, 0, count, "cpu", gradient.dtype)
        padded = torch.nn.functional.pad(signed, (0, -count % self.num_dims))
        return padded.view(len(gradient), -1, self.num_dims).sum(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return float64 normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heavy(rows: int, size: int) -> Tensor:
    """Return rows like gradients: a shared part, and coordinates of very different scales."""
    scales = normal(size, seed=1).exp()
    return (normal(1, size, seed=2) + 2 * normal(rows, size, seed=3)) * scales


def cosines(rows: Tensor) -> Tensor:
    """Return the cosine of each pair of different rows."""
    unit = torch.nn.functional.normalize(rows.double())
    i, j = torch.triu_indices(len(rows), len(rows), offset=1)
    return (unit @ unit.T)[i, j]


def assert_unbiased(estimates: Tensor, exact: Tensor) -> None:
    """The mean over seeds (dim 0) is within four standard errors of the truth."""
    error = estimates.mean(0) - exact
    standard_error = estimates.std(0) / len(estimates) ** 0.5
    assert (error.abs() <= 4 * standard_error).all()
    # the test has power: a scale that is off by a tenth would be seen
    assert (0.1 * exact.abs() > 4 * standard_error).any()


@pytest.mark.parametrize("kind", FLAT)
def test_inner_products_are_unbiased_over_seeds(kind: type[Projection]) -> None:
    gradients = {
        "a": heavy(3, 300),
        "b.weight": heavy(3, 130).view(3, 10, 13),
        "b.bias": heavy(3, 5),
    }
    flat = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    estimates = []
    for seed in range(600):
        projected = project_rows(kind(num_dims=32, seed=seed), gradients)
        estimates.append(projected @ projected.T)

    assert_unbiased(torch.stack(estimates), flat @ flat.T)


def test_logra_inner_products_are_unbiased_over_seeds() -> None:
    gradients = {
        "a": normal(3, 6, 9) + 0.5,
        "b": normal(3, 4, 5, seed=1) + 0.5,
        "bias": normal(3, 6),
    }
    flat = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    estimates = []
    for seed in range(4000):
        projected = project_rows(LoGra(4, 6, seed), gradients)
        estimates.append(projected @ projected.T)

    assert_unbiased(torch.stack(estimates), flat @ flat.T)


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("num_dims", [256, 1000])
def test_the_cosine_error_is_one_over_the_root_of_the_dimensions(
    kind: type[Projection], num_dims: int
) -> None:
    # An error's deviation is sqrt(1 - c^2 ...) / sqrt(d); of small cosines, 1 / sqrt(d). The mean
    # absolute error of a normal one is sqrt(2 / pi) of that.
    rows = normal(48, 20_000).float()
    error = cosines(project_rows(kind(num_dims=num_dims), rows)) - cosines(rows)

    ratio = float(error.abs().mean()) / math.sqrt(2 / math.pi / num_dims)

    assert 0.93 < ratio < 1.07  # 1128 pairs: a standard error of about 0.02
    assert abs(float(error.mean())) < 4 / math.sqrt(num_dims * len(error))


@pytest.mark.parametrize("sides", [8, 16, 32])
def test_logra_errs_by_one_over_the_root_of_its_dimensions_and_by_what_its_sides_share(
    sides: int,
) -> None:
    """Two-sided: of matrices [96, 120] the deviation is sqrt(1/k^2 + (1/k)(1/96 + 1/120)).

    <P G Q', P H Q'> over k x k outputs: entries along one row of outputs share a projection of that
    side, whose own error does not average out: 1/k for each side, times what the cosine of unlike
    matrices leaves of it, 1 over the other side's length.
    """
    gradients = {"a": normal(32, 96, 120)}
    exact = cosines(gradients["a"].flatten(1))
    found = [
        cosines(project_rows(LoGra(sides, sides, seed), gradients)) - exact for seed in range(6)
    ]

    error = float(torch.stack(found).abs().mean()) / math.sqrt(2 / math.pi)

    wanted = math.sqrt(1 / sides**2 + (1 / sides) * (1 / 96 + 1 / 120))
    assert 0.9 < error / wanted < 1.1


def test_a_sketch_is_as_exact_as_a_gaussian_on_rows_like_gradients() -> None:
    rows = heavy(48, 20_000).float()
    exact = cosines(rows)

    def error(kind: type[Projection]) -> float:
        found = [cosines(kind(512, seed).project("", rows)) - exact for seed in range(4)]
        return float(torch.stack(found).abs().mean())

    assert 0.1 < float(exact.mean()) < 0.9
    assert 0.85 < error(CountSketch) / error(Gaussian) < 1.15


def strided(num_dims: int, rows: int) -> Tensor:
    """Return independent rows [rows, 64 num_dims] that live on one residue class of num_dims."""
    gradient = torch.zeros(rows, 64 * num_dims, dtype=torch.float64)
    gradient[:, 5::num_dims] = normal(rows, 64)
    return gradient


def test_coordinates_at_the_stride_of_the_sketch_do_not_meet() -> None:
    rows = strided(512, 24)
    exact = cosines(rows)

    def error(sketch: Projection) -> float:
        return float((cosines(sketch.project("", rows)) - exact).abs().mean())

    # In one place all rows are parallel, so the negative control's cosines are 1 and -1.
    assert error(NaiveSketch(512, seed=0)) > 0.8
    errors = [error(CountSketch(512, seed)) for seed in range(20)]
    # a textbook sketch errs by sqrt(2 / pi / 512) = 0.035
    assert 0.025 < sum(errors) / len(errors) < 0.045


@pytest.mark.parametrize("stride", [1, 31, 32, 33, 63, 64, 96])
def test_no_stride_is_bad_for_places_or_signs(stride: int) -> None:
    """The squared error over seeds is what independent places and signs would give."""
    num_dims, support = 32, 24
    x = torch.zeros(2, stride * support, dtype=torch.float64)
    x[0, ::stride] = 1.0
    x[1, ::stride] = torch.tensor([1.0, -1.0]).repeat(support // 2)
    errors, squares, naive = [], [], []
    for seed in range(1000):
        projected = CountSketch(num_dims, seed).project("", x)
        errors.append((projected[0] @ projected[1]) / support)
        squares.append((projected[0] @ projected[0]) / support)
    if stride % num_dims == 0:
        for seed in range(200):
            projected = NaiveSketch(num_dims, seed * 10**9).project("", x)
            naive.append((projected[0] @ projected[1]) / support)
        assert torch.stack(naive).square().mean() * num_dims > 20

    # equal signs would add up: a period in them shows in the square of the constant row
    square = torch.stack(squares)
    assert abs(float(square.mean()) - 1) <= 4 * float(square.std()) / len(square) ** 0.5 + 1e-12

    # Var = sum over meeting pairs (x_i^2 y_j^2 + x_i y_i x_j y_j) / d, here at most 1 / d; within
    # one segment none meet.
    scaled = float(torch.stack(errors).square().mean()) * num_dims
    first = torch.arange(support) * stride // num_dims
    meeting = first[:, None] != first
    products = x[0, ::stride] * x[1, ::stride]
    expected = (float(meeting.sum()) + float((meeting * torch.outer(products, products)).sum())) / (
        support**2
    )
    if expected == 0:
        assert scaled < 1e-12
    else:
        assert expected * 0.75 < scaled < expected * 1.25


@pytest.mark.parametrize("kind", [*FLAT, LoGra])
def test_modules_add_up_in_any_order(kind: type[Projection]) -> None:
    projection = kind(8, seed=3) if kind is not LoGra else LoGra(2, 4, seed=3)
    gradients = {"w": normal(4, 7, 5), "v": normal(4, 9, 3, seed=1), "bias": normal(4, 7, seed=2)}

    whole = project_rows(projection, gradients)

    assert torch.equal(whole, project_rows(projection, dict(reversed(gradients.items()))))
    parts = sum(projection.project(name, gradient) for name, gradient in gradients.items())
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    assert whole.shape == (4, projection.num_dims)


@pytest.mark.parametrize("kind", [*FLAT, LoGra])
def test_modules_are_projected_apart(kind: type[Projection]) -> None:
    projection = kind(64, seed=3) if kind is not LoGra else LoGra(8, 8, seed=3)
    gradient = normal(6, 20, 30)

    here, there = projection.project("h.0", gradient), projection.project("h.1", gradient)

    # Equal projections would give equal rows a cosine of 1 across modules.
    assert float(cosines(torch.stack([here.flatten(), there.flatten()])).abs()) < 0.25


@pytest.mark.parametrize("kind", [*FLAT, LoGra])
def test_a_tied_parameter_may_come_in_parts(kind: type[Projection]) -> None:
    projection = kind(32, seed=1) if kind is not LoGra else LoGra(4, 8, seed=1)
    embedding, head = normal(3, 40, 12), normal(3, 40, 12, seed=1)

    parts = projection.project("wte", embedding) + projection.project("wte", head)

    torch.testing.assert_close(parts, projection.project("wte", embedding + head))


@pytest.mark.parametrize("chunk", [1, 64, 100, 300, 1000, 10**6])
def test_the_chunk_changes_no_bit(chunk: int) -> None:
    rows = normal(5, 2345).float()

    assert torch.equal(
        CountSketch(100, 7, chunk).project("w", rows), CountSketch(100, 7).project("w", rows)
    )


@pytest.mark.parametrize("kind", [*FLAT, LoGra])
def test_the_batch_changes_no_row(kind: type[Projection]) -> None:
    projection = kind(2000) if kind is not LoGra else LoGra()
    rows = normal(40, 30, 150).float()

    whole = projection.project("w", rows)

    parts = torch.cat([projection.project("w", part) for part in rows.split([1, 16, 20, 3])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-4)
    if kind is CountSketch:
        assert torch.equal(parts, whole)


def test_rows_need_not_be_contiguous() -> None:
    gradient = normal(4, 30, 20)

    assert torch.equal(
        CountSketch(64).project("w", gradient.mT),
        CountSketch(64).project("w", gradient.mT.contiguous()),
    )


@pytest.mark.parametrize("kind", [*FLAT, LoGra])
def test_bfloat16_gradients_are_summed_in_float32(kind: type[Projection]) -> None:
    projection = kind(16) if kind is not LoGra else LoGra(4, 4)
    gradient = normal(2, 50, 200).bfloat16()

    projected = projection.project("w", gradient)

    assert projected.dtype == torch.float32
    exact = projection.project("w", gradient.double()).float()
    torch.testing.assert_close(projected, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def digest() -> str:
    """Return a hash of what every projection makes of the same rows."""
    rows = torch.arange(2 * 1500).remainder(17).sub(8).double().view(2, 50, 30)
    kinds = [CountSketch(24, 5), Gaussian(24, 5), Rademacher(24, 5), LoGra(4, 6, 5)]
    found = torch.cat([kind.project("h.0.weight", rows) for kind in kinds], 1)
    return hashlib.blake2b(found.numpy().tobytes()).hexdigest()


def test_another_process_projects_alike() -> None:
    module = "tests.harness.influence.test_projections"
    command = f"import torch; torch.rand(3); from {module} import digest; print(digest())"
    other = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True
    )

    assert other.stdout.strip() == digest()


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()

    for projection in (CountSketch(8), Gaussian(8), Rademacher(8), LoGra(2, 2)):
        projection.project("w", normal(2, 5, 4))

    assert torch.equal(torch.get_rng_state(), before)


def test_logra_is_the_kronecker_product_of_its_sides() -> None:
    inputs, outputs = normal(3, 11, 5), normal(3, 11, 4, seed=1)
    gradient = torch.einsum("bto,bti->boi", outputs, inputs)
    logra = LoGra(2, 3, seed=9)

    projected = logra.project_factors("w", inputs, outputs)

    # The sides are read off from single entries: unit matrices are projected to columns.
    units = torch.eye(20, dtype=torch.float64).view(20, 4, 5)
    columns = logra.project("w", units)  # [20, 6], transposed (P_out ⊗ P_in)
    torch.testing.assert_close(projected, gradient.flatten(1) @ columns)
    torch.testing.assert_close(projected, logra.project("w", gradient))
    # each entry is a product of one of P_out and one of P_in: as [O k_out, I k_in], of rank one
    entries = columns.view(4, 5, 3, 2).permute(0, 2, 1, 3).reshape(12, 10)
    assert int(torch.linalg.matrix_rank(entries)) == 1


def test_logra_sees_a_bias_as_one_more_input() -> None:
    inputs, outputs = normal(2, 7, 5), normal(2, 7, 4, seed=1)
    weight, bias = torch.einsum("bto,bti->boi", outputs, inputs), outputs.sum(1)
    logra = LoGra(3, 2)

    projected = logra.project_factors("w", with_bias(inputs), outputs)

    gradient = torch.cat([weight, bias[:, :, None]], 2)
    torch.testing.assert_close(projected, logra.project("w", gradient))


def test_logra_multiplies_bfloat16_factors_in_float32() -> None:
    inputs, outputs = normal(2, 700, 5).bfloat16(), normal(2, 700, 4, seed=1).bfloat16()

    projected = LoGra(2, 2).project_factors("w", inputs, outputs)

    assert projected.dtype == torch.float32
    exact = LoGra(2, 2).project_factors("w", inputs.double(), outputs.double()).float()
    torch.testing.assert_close(projected, exact, rtol=1e-4, atol=1e-3)


def test_signs_and_integers_are_a_function_of_the_index() -> None:
    whole = signs(11, 0, 1000, "cpu", torch.float32)

    assert torch.equal(signs(11, 37, 803, "cpu", torch.float32), whole[37:803])
    assert torch.equal(integers(11, 5, 9, 100), integers(11, 0, 9, 100)[5:])
    assert set(whole.tolist()) == {-1.0, 1.0}
    # the published first outputs of SplitMix64 seeded with 0 and counting from one stride
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [word % 2**64 for word in words(0, 1, 4).tolist()] == expected


def test_bad_input_is_named() -> None:
    sketch = CountSketch(8)
    with pytest.raises(ValueError, match="no module"):
        project_rows(sketch, {})
    with pytest.raises(ValueError, match="'a': 2, 'b': 3"):
        project_rows(sketch, {"a": normal(2, 4), "b": normal(3, 4)})
    with pytest.raises(ValueError, match=r"'w' are torch.int64 \[2, 3\]"):
        sketch.project("w", torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'w' are torch.float64 \[4\]"):
        sketch.project("w", normal(4))
    with pytest.raises(ValueError, match="num_dims is 0"):
        CountSketch(0)
    with pytest.raises(ValueError, match="k_out is 0"):
        LoGra(4, 0)
    with pytest.raises(ValueError, match="w: inputs and output gradients"):
        LoGra().project_factors("w", normal(2, 3, 4), normal(2, 5, 4))


@pytest.mark.parametrize("bound", [("PLACES", 256), ("AT_ONCE", 3 * 256), ("PLACES", 2**23)])
@pytest.mark.parametrize("count", [40, 64, 1000])
def test_a_sketch_all_at_once_is_the_sketch(
    count: int, bound: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU computes, a last segment cut short included: the same sums in another order."""
    rows = torch.randn(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sketch = CountSketch(num_dims=64, seed=1, chunk=64)
    monkeypatch.setattr(projections, *bound)

    torch.testing.assert_close(sketch._projected_at_once("m", rows), sketch.project("m", rows))
