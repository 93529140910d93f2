"""Numbers that are none: found at once, and named by row, step and module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, View


def all_finite(values: Tensor) -> bool:
    """Tell whether no number is NaN or infinite.

    A norm reads each once, where a test of each writes and reads several times as much; it may
    overflow, and then each is tested.
    """
    return bool(torch.linalg.vector_norm(values).isfinite()) or bool(values.isfinite().all())


def refuse_non_finite(view: View, rows: Batch, what: str, values: Tensor) -> None:
    """Raise FloatingPointError that names the first row and the module with such a value."""
    if all_finite(values):
        return
    first = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
    row, domain = int(rows.rows[first]), view.probe_domains[int(rows.domains[first])]
    where = f"row {row} of domain {domain!r} at step {view.step}"
    inside = first_non_finite(view.model, rows.select(slice(first, first + 1)))
    raise FloatingPointError(f"influence of {where} is not finite in {what}{inside}")


def first_non_finite(model: nn.Module, row: Batch) -> str:
    """Return ", first in the output of module NAME" of a forward pass of the row, "" if in none."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple | list) else [output]
            tensors = [one for one in outputs if isinstance(one, torch.Tensor)]
            if not found and not all(bool(one.isfinite().all()) for one in tensors):
                found.append(name)

        return hook

    named = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(look(name)) for name, module in named]
    try:
        with torch.no_grad():
            model(input_ids=row.inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return f", first in the output of module {found[0]}" if found else ""
