"""Random projections of row gradients: [B, P] becomes [B, num_dims] with inner products kept.

All are linear, unbiased (the mean of <S x, S y> over seeds is <x, y>) and have a cosine error of
the order of 1 / sqrt(num_dims). A projection is a function of (seed, module name, coordinate), so
modules may come in any order, one by one from a backward hook, and their results are added up. A
parameter that is used twice (a tied head) is one name: its parts may be projected apart and added.

- CountSketch is the one to use: one multiplication and one addition per coordinate.
- Gaussian and Rademacher are the dense references, num_dims multiplications per coordinate.
- LoGra never forms the gradient: it projects both factors of its outer product. It is the
  noisiest at equal size. Source: arXiv:2405.13954.

Sums are in float32, in float64 where the gradients are. Shapes: B rows, T tokens, P coordinates,
I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from harness import rng
from harness.influence.counter_hash import integers, signs

if TYPE_CHECKING:
    from torch import Tensor

# Coordinates of a dense projection that share a generator. Part of what a projection is.
DENSE_BLOCK = 256
# Numbers added by one CPU operation: the accumulator stays in cache, and two threads share it.
CACHED = 2**16
# Elsewhere to start an operation takes longest: numbers that one turns (256 MiB of float32, and a
# few copies of them), and coordinates at most, whose places are 64 MiB of int64.
AT_ONCE, PLACES = 2**26, 2**23


class Projection(Protocol):
    """A linear map of the row gradients of one named module."""

    @property
    def num_dims(self) -> int:
        """Return the length of a projected row."""
        ...

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """Return the module's share [B, num_dims] of the projection of gradient [B, ...]."""
        ...


def project_rows(projection: Projection, gradients: Mapping[str, Tensor] | Tensor) -> Tensor:
    """Return the projections [B, num_dims] of row gradients by module name, or of a flat [B, P].

    A flat gradient is one module without a name: its projection is not that of the modules in it.
    ValueError where there are no gradients, or modules differ in their number of rows.
    """
    if isinstance(gradients, torch.Tensor):
        return projection.project("", gradients)
    if not gradients:
        raise ValueError("no module has a gradient to project")
    counts = {name: len(gradient) for name, gradient in gradients.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"modules differ in their number of rows: {counts}")
    # Float addition depends on the order: sorted names make the sum the same bits in any.
    first, *others = sorted(gradients)
    total = projection.project(first, gradients[first])
    for name in others:
        total = total + projection.project(name, gradients[name])
    return total


@dataclass(frozen=True)
class CountSketch:
    """Each coordinate is added, with a random sign, to one of num_dims places.

    Places are computed, not stored. Coordinates go in segments of num_dims; within one they are
    rotated by a hash of its number, so they never meet, and two coordinates of different segments
    meet with probability 1 / num_dims, as in a textbook CountSketch: also those at stride num_dims,
    which `coordinate mod num_dims` would put into one place. Signs are one hashed bit each.
    """

    num_dims: int = 8192
    seed: int = 0
    # coordinates whose signs are in memory at once, on a GPU at least; changes no bit on a CPU
    chunk: int = 2**18

    def __post_init__(self) -> None:
        _positive(num_dims=self.num_dims, chunk=self.chunk)

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """Return the module's share [B, num_dims] of the sketch of gradient [B, ...]."""
        flat = _flat(name, gradient)
        if flat.device.type != "cpu":
            return self._projected_at_once(name, flat)
        # Twice as wide: a rotated segment is added in one piece, and the overhang folded back.
        unfolded = flat.new_zeros(len(flat), 2 * self.num_dims, dtype=_sum_dtype(flat))
        group = max(1, CACHED // self.num_dims)
        for start, sign, shifts in self._chunks(name, flat, self.chunk):
            for low in range(0, len(flat), group):
                segments = flat[low : low + group, start : start + len(sign)]
                self._add(unfolded[low : low + group], segments, sign, shifts)
        return unfolded[:, : self.num_dims] + unfolded[:, self.num_dims :]

    def _projected_at_once(self, name: str, flat: Tensor) -> Tensor:
        """Return the sketch where calls are dear and memory is not: the same sums, reordered."""
        total = flat.new_zeros(len(flat), self.num_dims, dtype=_sum_dtype(flat))
        place = torch.arange(self.num_dims, device=flat.device)
        chunk = max(self.chunk, min(PLACES, AT_ONCE // max(1, len(flat))))
        for start, sign, shifts in self._chunks(name, flat, chunk):
            segments = flat[:, start : start + len(sign)].to(total.dtype) * sign
            missing = len(shifts) * self.num_dims - len(sign)
            whole = torch.nn.functional.pad(segments, (0, missing))
            whole = whole.view(len(flat), len(shifts), self.num_dims)
            turned = torch.tensor(shifts, device=flat.device)[:, None]
            source = (place - turned) % self.num_dims  # [segments, num_dims]
            total += whole.gather(2, source.expand_as(whole)).sum(1)
        return total

    def _chunks(
        self, name: str, flat: Tensor, chunk: int
    ) -> Iterator[tuple[int, Tensor, list[int]]]:
        """Yield (first coordinate, signs, shifts of the segments) of whole segments."""
        sign_key = rng.key(self.seed, "count sketch signs", name)
        shift_key = rng.key(self.seed, "count sketch shifts", name)
        size = max(1, chunk // self.num_dims) * self.num_dims
        for start in range(0, flat.shape[1], size):
            end = min(start + size, flat.shape[1])
            first, last = start // self.num_dims, -(-end // self.num_dims)
            shifts = integers(shift_key, first, last, self.num_dims).tolist()
            yield start, signs(sign_key, start, end, flat.device, _sum_dtype(flat)), shifts

    def _add(self, unfolded: Tensor, rows: Tensor, sign: Tensor, shifts: list[int]) -> None:
        segments = torch.split(rows, self.num_dims, 1)
        segment_signs = torch.split(sign, self.num_dims)
        for segment, segment_sign, shift in zip(segments, segment_signs, shifts, strict=True):
            place = unfolded[:, shift : shift + segment.shape[1]]
            place.addcmul_(segment.to(unfolded.dtype), segment_sign)


@dataclass(frozen=True)
class _Dense:
    """Multiply by a matrix that is drawn block by block."""

    num_dims: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(num_dims=self.num_dims)

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """Return the module's share [B, num_dims] of the projection of gradient [B, ...]."""
        return _dense(self, name, gradient)

    def block(self, generator: torch.Generator) -> Tensor:
        """Return the matrix [DENSE_BLOCK, num_dims] of one block of coordinates, unscaled."""
        raise NotImplementedError


class Gaussian(_Dense):
    """Multiply by independent normal numbers of variance 1 / num_dims: the reference."""

    def block(self, generator: torch.Generator) -> Tensor:
        """Return normal numbers [DENSE_BLOCK, num_dims]."""
        return torch.randn(DENSE_BLOCK, self.num_dims, generator=generator)


class Rademacher(_Dense):
    """Multiply by independent signs over sqrt(num_dims): the reference."""

    def block(self, generator: torch.Generator) -> Tensor:
        """Return signs [DENSE_BLOCK, num_dims]."""
        shape = (DENSE_BLOCK, self.num_dims)
        return torch.randint(0, 2, shape, generator=generator, dtype=torch.float32).mul_(2).sub_(1)


def _dense(projection: _Dense, name: str, gradient: Tensor) -> Tensor:
    """Multiply block by block: the matrix is drawn on the CPU, the same for every device."""
    flat = _flat(name, gradient)
    dtype = _sum_dtype(flat)
    projected: Tensor = flat.new_zeros(len(flat), projection.num_dims, dtype=dtype)
    kind = type(projection).__name__
    for i, rows in enumerate(torch.split(flat, DENSE_BLOCK, 1)):
        matrix = projection.block(rng.generator(projection.seed, kind, name, i))
        projected.addmm_(rows.to(dtype), matrix[: rows.shape[1]].to(flat.device, dtype))
    return projected.div_(projection.num_dims**0.5)


class LoGra:
    """Project a linear layer's inputs to k_in and its output gradients to k_out dimensions.

    A row's gradient is the sum over tokens of (output gradient) x (input), [O, I]. The projection
    is the same sum of the projected factors, that is (P_out ⊗ P_in) of the gradient, so [O, I] is
    never formed. Entries are normal with variance 1 / k. The small P_in [k_in, I] and P_out
    [k_out, O] of each module are kept.

    Results of different modules may be added up like the others', or set side by side for less
    noise. With a bias, append 1 to the inputs (`with_bias`): it is the gradient's last column.
    """

    def __init__(self, k_in: int = 16, k_out: int = 16, seed: int = 0) -> None:
        _positive(k_in=k_in, k_out=k_out)
        self.k_in, self.k_out, self.seed = k_in, k_out, seed
        self._sides: dict[tuple[Any, ...], Tensor] = {}

    @property
    def num_dims(self) -> int:
        """Return the length of a projected row, place (o, i) at o * k_in + i."""
        return self.k_in * self.k_out

    def project(self, name: str, gradient: Tensor) -> Tensor:
        """Return [B, num_dims] of a formed gradient [B, O, I]; a vector [B, O] is [B, O, 1]."""
        _flat(name, gradient)
        matrix = gradient.reshape(len(gradient), gradient.shape[1], -1).to(_sum_dtype(gradient))
        p_in = self._side(name, "in", self.k_in, matrix.shape[2], matrix)
        p_out = self._side(name, "out", self.k_out, matrix.shape[1], matrix)
        projected: Tensor = p_out @ matrix @ p_in.T
        return projected.flatten(1)

    def project_factors(self, name: str, inputs: Tensor, output_gradients: Tensor) -> Tensor:
        """Return [B, num_dims] from inputs [B, T, I] and output gradients [B, T, O]."""
        if inputs.shape[:2] != output_gradients.shape[:2] or inputs.dim() != 3:
            shapes = f"{list(inputs.shape)} and {list(output_gradients.shape)}"
            raise ValueError(f"{name}: inputs and output gradients are {shapes}, not [B, T, ...]")
        # a bfloat16 factor is projected in float32: the sum over tokens is long
        inputs = inputs.to(_sum_dtype(inputs))
        outputs = output_gradients.to(inputs.dtype)
        p_in = self._side(name, "in", self.k_in, inputs.shape[2], inputs)
        p_out = self._side(name, "out", self.k_out, outputs.shape[2], outputs)
        return ((outputs @ p_out.T).mT @ (inputs @ p_in.T)).flatten(1)

    def _side(self, name: str, side: str, k: int, size: int, like: Tensor) -> Tensor:
        key = (name, side, size, like.dtype, like.device)
        if key not in self._sides:
            generator = rng.generator(self.seed, "LoGra", name, side)
            matrix = torch.randn(k, size, generator=generator, dtype=torch.float64) / k**0.5
            self._sides[key] = matrix.to(like.device, like.dtype)
        return self._sides[key]


def with_bias(inputs: Tensor) -> Tensor:
    """Return inputs [B, T, I + 1] with ones appended, as a layer with a bias sees them."""
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)


def _flat(name: str, gradient: Tensor) -> Tensor:
    if gradient.dim() < 2 or not gradient.is_floating_point():
        found = f"{gradient.dtype} {list(gradient.shape)}"
        raise ValueError(f"the row gradients of {name!r} are {found}, not floats [B, ...]")
    return gradient.flatten(1)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; a projection needs at least 1")
