"""The derivative of each row's loss along directions, exactly, by two independent ways.

    by hooks       <g_i, v> = sum over modules of <output gradient, change of the output along v>:
                   one forward, one backward to the activations, one product per direction; about
                   a training step for one. No row gradient is formed, and attention stays fused.
                   In bfloat16 the products are too, and sums are in float32.
    forward mode   dual numbers through the whole network: exact whatever a model does with its
                   parameters, 1.6 steps, and only with attention and experts written out
                   ("eager"). It does not know an embedding's padding_idx, which the models of a run
                   have not.

The first sees what a module does with its own parameters. A model that reads a parameter from
outside its module would escape it, so who uses it compares its sum with `plain_product` first; a
module of no known kind is differentiated forwards. NotImplementedError where torch cannot, or where
an output's tokens are of no row that can be told, as an expert's are.
Neither touches the model: hooks go, and dual numbers live on a twin that shares the parameters and
has a configuration of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from harness.influence.kinds import kind_of
from harness.influence.row_gradients import Precision, is_of_rows, row_losses
from harness.influence.spread import whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, Direction

# What adds up, row by row, to <output gradient, the output's change along one direction>.
Product = Callable[[int, "Tensor"], "list[Tensor]"]
# Rounding of float32 sums is 1e-5 here; a parameter that is read unseen shows in the first digits.
COVERED = 1e-3


class Functional:
    """A model's forward pass at given parameters; those that are not given are its own."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        """Keep both."""
        self.model, self.parameters = model, dict(parameters)

    def __call__(self, **inputs: Any) -> Any:
        """Run the model."""
        return torch.func.functional_call(self.model, self.parameters, kwargs=inputs)


def eager_twin(model: nn.Module) -> nn.Module:
    """Return a copy that shares the parameters and writes out what forward mode does not know.

    That is fused attention, and experts whose products are grouped.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin: Any = copy.deepcopy(model, shared)
    if hasattr(twin, "set_attn_implementation"):
        twin.set_attn_implementation("eager")
    if hasattr(twin, "set_experts_implementation"):
        twin.set_experts_implementation("eager")
    return twin  # type: ignore[no-any-return]


def by_forward_mode(twin: nn.Module, rows: Batch, along: Direction) -> Tensor:
    """Return the derivative of each row's mean loss along the direction [B], by dual numbers."""
    from torch.autograd import forward_ad

    parameters = dict(twin.named_parameters())
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(parameters[name].detach(), tangent)  # type: ignore[no-untyped-call]
            for name, tangent in along.items()
        }
        losses = row_losses(Functional(twin, duals), rows, "mean")  # type: ignore[arg-type]
        tangent = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
        # None where the loss does not move
        return torch.zeros_like(losses) if tangent is None else tangent.clone()


def by_hooks(
    model: nn.Module, rows: Batch, directions: Direction, precision: Precision = "float32"
) -> Tensor:
    """Return the derivative of each row's mean loss [B, Q]; `directions` are [Q, *P] by name."""
    num_rows, num_directions = len(rows.rows), len(next(iter(directions.values())))
    token = torch.zeros((), device=rows.inputs.device, requires_grad=True)
    found = torch.zeros(num_rows, num_directions, dtype=torch.float64, device=token.device)
    half = precision == "bfloat16"
    autocast = torch.autocast(token.device.type, torch.bfloat16, enabled=half)

    def receive(product: Product, gradient: Tensor) -> None:
        for q in range(num_directions):
            for part in product(q, gradient):
                exact = torch.promote_types(part.dtype, torch.float32)
                found[:, q] += part.reshape(num_rows, -1).sum(1, dtype=exact).double()

    shape = rows.inputs.shape
    with torch.enable_grad(), _tapped(model, shape, directions, token, receive, half):
        with autocast:
            losses = row_losses(model, rows, "mean")
        torch.autograd.grad(losses.sum(), token, allow_unused=True)
    return found


def plain_product(model: nn.Module, rows: Batch, along: Direction) -> Tensor:
    """Return <sum of the rows' gradients, along> [1] by a plain backward pass, whatever it costs.

    It is what the rows' own derivatives must add up to.
    """
    parameters = dict(model.named_parameters())
    leaves = {name: parameters[name].detach().requires_grad_() for name in along}
    with torch.enable_grad():
        total = row_losses(Functional(model, leaves), rows, "mean").sum()  # type: ignore[arg-type]
        gradients = torch.autograd.grad(
            total, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    pairs = zip(along.values(), gradients, strict=True)
    return torch.stack([(v.double() * g.double()).sum() for v, g in pairs]).sum()[None]


def spread_product(model: nn.Module, rows: Batch, along: Direction) -> Tensor:
    """Return `plain_product` of a model that is spread over ranks, which has no other backward.

    Every rank runs the same rows, so that their gradients arrive `count` times.
    """
    parameters = dict(model.named_parameters())
    kept = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    try:
        with torch.enable_grad():
            row_losses(model, rows, "mean").sum().backward()  # type: ignore[no-untyped-call]
        found = {name: parameters[name].grad for name in along}
    finally:
        for name, parameter in parameters.items():
            parameter.grad = kept[name]
    there = [(along[name], gradient) for name, gradient in found.items() if gradient is not None]
    total = sum(float((v.double() * gradient.double()).sum()) for v, gradient in there)
    count = next(iter(along.values())).device_mesh.size()  # type: ignore[attr-defined]
    return torch.tensor([total / count], dtype=torch.float64)


@contextmanager
def _tapped(
    model: nn.Module,
    shape: torch.Size,
    directions: Direction,
    token: Tensor,
    receive: Callable[[Product, Tensor], None],
    half: bool,
) -> Iterator[None]:
    from harness.influence.tap import Tap  # here, since it is a class of torch's

    resting = [False]  # while a module is differentiated alone, it and its children are not tapped

    def hook(
        tangents: dict[str, Tensor],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> Any:
        if resting[0] or not isinstance(out, torch.Tensor):
            return out
        if not is_of_rows(out, shape):
            raise NotImplementedError(f"an output {list(out.shape)} of {type(module).__name__}")
        if shape[0] > 1 and out.shape[0] == 1:  # positions, say: one for all rows
            out = out.expand(shape[0], *out.shape[1:])
        given = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))

        def product(q: int, gradient: Tensor) -> list[Tensor]:
            mine = {key: whole(tangent[q]) for key, tangent in tangents.items()}
            exact = torch.promote_types(gradient.dtype, torch.float32)
            dtype = gradient.dtype if half else exact  # of products
            if _is_wide(module, mine):
                return _at_input(module, given, mine, gradient, dtype)
            resting[0] = True
            try:
                return [_output_change(module, given, mine, dtype) * gradient.to(dtype)]
            finally:
                resting[0] = False

        return Tap.apply(out, token, partial(receive, product))  # type: ignore[no-untyped-call]

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    handles = []
    for module in model.modules():
        own = {key: names[id(p)] for key, p in module._parameters.items() if p is not None}
        tangents = {key: directions[name] for key, name in own.items() if name in directions}
        if tangents:
            with_tangents = partial(hook, tangents)
            handles.append(module.register_forward_hook(with_tangents, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_wide(module: nn.Module, tangents: dict[str, Tensor]) -> bool:
    """Tell whether a dense layer has more outputs than inputs, as a head has many times over."""
    kind = kind_of(module)
    if kind not in ("linear", "conv1d") or "weight" not in tangents:
        return False
    out, size = tangents["weight"].shape[:: 1 if kind == "linear" else -1]
    return out > size


def _at_input(
    module: nn.Module,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    tangents: dict[str, Tensor],
    gradient: Tensor,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Return what adds up to <output gradient, change of the output>, taken where it is narrow."""
    args, kwargs = given
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    weight = tangents["weight"] if kind_of(module) == "linear" else tangents["weight"].mT
    back = gradient.to(dtype) @ weight.to(dtype)  # [B, T, in]
    parts = [back * first.to(back.dtype)]
    if "bias" in tangents:
        parts.append(gradient.to(dtype) @ tangents["bias"].to(dtype))  # [B, T]
    return parts


def _as_parameters(
    module: nn.Module, given: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a module's inputs in the type of its parameters, which autocast may have narrowed."""
    dtype = next(module.parameters(recurse=False)).dtype

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return torch.utils._pytree.tree_map_only(torch.Tensor, cast, given)  # type: ignore[no-any-return]


def _output_change(
    module: nn.Module,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    tangents: dict[str, Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """Return the change of a module's output when its own parameters move along the tangents."""
    kind = kind_of(module)
    args, kwargs = _as_parameters(module, given) if kind is None else given
    if type(module).forward is torch.nn.LayerNorm.forward:
        norm: Any = module
        weight, bias = tangents.get("weight"), tangents.get("bias")
        weight = norm.weight.new_zeros(norm.normalized_shape) if weight is None else weight
        return torch.nn.functional.layer_norm(
            args[0], norm.normalized_shape, weight, bias, norm.eps
        )
    if kind is None:  # norms and the like: cheap, and of any form
        own = {key: module._parameters[key].detach() for key in tangents}  # type: ignore[union-attr]

        def output(parameters: dict[str, Tensor]) -> Any:
            return torch.func.functional_call(module, parameters, args, kwargs, tie_weights=False)

        change: Tensor = torch.func.jvp(output, (own,), (tangents,))[1]
        return change
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    weight, bias = tangents.get("weight"), tangents.get("bias")
    if kind == "embedding":
        assert weight is not None
        padding: Any = module.padding_idx
        return weight[first] if padding is None else weight[first] * first.ne(padding)[..., None]
    if weight is None:
        assert bias is not None
        return bias
    moved = first.to(dtype) @ (weight.mT if kind == "linear" else weight).to(dtype)
    return moved if bias is None else moved + bias
