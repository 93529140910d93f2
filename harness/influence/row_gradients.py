"""Per-row gradients of chosen modules from one backward pass over a batch.

Forward hooks keep each module's input and tap its output; when the backward pass reaches the tap,
both factors of every row's gradient are there. What is made of them is made inside that call, so
no more than one parameter's row gradients exist at a time. A parameter that two modules share is
the exception where a norm is asked for: the first module's factors wait for the second's.

A row's loss is the sum or the mean over its counted targets; a row without any has the loss 0 and
the gradient 0. The model is left as it was: no `grad`, flag, hook or generator moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from harness.attention import short_rows
from harness.cross_entropy import cross_entropy
from harness.influence.factors import Factors, materialised
from harness.packing import whole_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.influence.selection import Use

Reduction = Literal["sum", "mean"]
Precision = Literal["float32", "bfloat16"]
Receive = Callable[[str, list[Factors]], None]


def row_losses(model: nn.Module, rows: Batch, reduction: Reduction) -> Tensor:
    """Return each row's loss [B] in nats, over counted targets alone."""
    with whole_rows(), short_rows(rows.inputs):
        logits = model(input_ids=rows.inputs, use_cache=False).logits
    targets = rows.targets.where(rows.mask, 0)  # a target that does not count may be no token
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten()).view_as(targets)
    total = losses.where(rows.mask, 0.0).sum(1)
    return total if reduction == "sum" else total / rows.mask.sum(1).clamp(min=1)


def row_gradients(
    model: nn.Module, rows: Batch, uses: list[Use], reduction: Reduction = "mean"
) -> dict[str, Tensor]:
    """Return each row's gradient [B, *parameter.shape] by parameter name, all of them at once."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}

    def keep(name: str, factors: list[Factors]) -> None:
        for one in factors:
            gradient = materialised(one)[0].view(-1, *shapes[name])
            found[name] = found[name] + gradient if name in found else gradient

    backward(model, rows, uses, keep, reduction)
    return found


def backward(
    model: nn.Module,
    rows: Batch,
    uses: list[Use],
    receive: Receive,
    reduction: Reduction = "mean",
    precision: Precision = "float32",
    together: bool = False,
    tokens: bool = False,
) -> Tensor:
    """Run one pass, calling `receive(parameter, factors)` as it reaches them; return losses [B].

    With `together`, the modules that share a parameter are received in one call; with `tokens`, a
    bias comes by position too, [B, T, 1] and [B, T, R]. A parameter that the loss does not depend
    on is not received.
    """
    token = torch.zeros((), device=rows.inputs.device, requires_grad=True)
    waiting: dict[str, list[Factors]] = {}
    left_over: Counter[str] = Counter()

    def arrive(name: str, factors: Factors) -> None:
        left_over[name] -= 1
        if not together:
            return receive(name, [factors])
        waiting.setdefault(name, []).append(factors)
        if left_over[name] == 0:
            receive(name, waiting.pop(name))

    autocast = torch.autocast(
        rows.inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"
    )
    with torch.enable_grad(), _hooked(uses, rows.inputs.shape, token, left_over, arrive, tokens):
        with autocast:
            losses = row_losses(model, rows, reduction)
        torch.autograd.grad(losses.sum(), token, allow_unused=True)
    for name in list(waiting):  # one of its modules had no part in the loss
        receive(name, waiting.pop(name))
    return losses.detach()


def is_of_rows(out: Tensor, shape: torch.Size) -> bool:
    """Tell whether an output's tokens can be told apart by row, in a pass of rows [B, T].

    An expert's cannot, which are of some tokens of any row: there may be as many as divide by B.
    """
    num_rows, num_tokens = shape
    if num_rows == 1:
        return True
    if out.dim() < 3:
        return len(out) == num_rows * num_tokens
    return len(out) == 1 or len(out) % num_rows == 0


@contextmanager
def _hooked(
    uses: list[Use],
    shape: torch.Size,
    token: Tensor,
    left_over: Counter[str],
    arrive: Callable[[str, Factors], None],
    tokens: bool,
) -> Iterator[None]:
    from harness.influence.tap import Tap  # here, since it is a class of torch's

    seen: set[str] = set()
    num_rows = shape[0]

    def hook(
        use: Use, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> Any:
        if use.name in seen:
            raise ValueError(
                f"{use.name} runs twice in one pass; row gradients of it are not known"
            )
        seen.add(use.name)
        if not is_of_rows(out, shape):
            told = f"{use.name}: an output {list(out.shape)} is not of {list(shape)} tokens in rows"
            raise ValueError(f"{told}; row gradients of it are not known")
        given = (args[0] if args else next(iter(kwargs.values()))).detach()
        if num_rows > 1 and out.shape[0] == 1:  # positions, say: one for all rows
            out = out.expand(num_rows, *out.shape[1:])
            given = given.expand(num_rows, *given.shape[1:])
        left_over.update(name for name in (use.weight, use.bias) if name)

        def receive(gradient: Tensor) -> None:
            for name, factors in _factors(use, given, gradient, num_rows, tokens):
                arrive(name, factors)

        return Tap.apply(out, token, receive)  # type: ignore[no-untyped-call]

    handles = [
        use.module.register_forward_hook(partial(hook, use), with_kwargs=True) for use in uses
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _factors(
    use: Use, given: Tensor, gradient: Tensor, num_rows: int, tokens: bool
) -> Iterator[tuple[str, Factors]]:
    """Yield each parameter's factors; tokens that a model has flattened get their rows back."""
    if gradient.numel() % (num_rows * gradient.shape[-1]) or given.shape[0] % num_rows:
        raise ValueError(f"{use.name}: an output {list(gradient.shape)} is not {num_rows} rows")
    gradient = gradient.reshape(num_rows, -1, gradient.shape[-1])  # [B, T, out]
    if use.bias:
        one = gradient if tokens else gradient.sum(1, keepdim=True)
        yield use.bias, Factors(one.new_ones(*one.shape[:2], 1), one, 1)
    if not use.weight:
        return
    if use.kind == "embedding":
        index = given.reshape(num_rows, -1)
        if use.module.padding_idx is not None:
            gradient = gradient * index.ne(use.module.padding_idx)[:, :, None]  # type: ignore[arg-type]
        gradient = gradient if use.scale == 1.0 else gradient * use.scale
        yield use.weight, Factors(index, gradient, int(use.module.num_embeddings))  # type: ignore[arg-type]
        return
    given = given.reshape(num_rows, -1, given.shape[-1]).to(gradient.dtype)  # [B, T, in]
    left, right = (gradient, given) if use.kind == "linear" else (given, gradient)
    yield use.weight, Factors(left, right, left.shape[-1])
