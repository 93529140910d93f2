"""One rank alone: it has every row, the whole model, and nobody to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.records import RecordWriter

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.api import Batch, Direction

Value = TypeVar("Value")


class Ranks:
    """One rank; those of a group override what takes more than one to answer."""

    parallel = "none"
    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this rank owns records, trackers, reports and decisions."""
        return self.rank == 0

    def writer(self, path: Path, position: int) -> RecordWriter:
        """Return what writes records to `path` from byte `position` on."""
        return RecordWriter(path, position)

    def threads(self, wanted: int) -> int:
        """Return this rank's share of the threads that a run is to use on one machine."""
        return wanted

    # Rows

    def part(self, whole: Tensor) -> Tensor:
        """Return this rank's rows of a tensor [B, ...], all ranks equally many; 0 fills up."""
        return whole

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows of a batch; no target counts in rows that fill up."""
        return batch

    def gathered(self, part: Tensor, num_rows: int) -> Tensor:
        """Return the first `num_rows` rows of all ranks' parts in order, the same on every rank."""
        return part

    def added(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' values."""
        return part

    # The model

    def placed(self, model: nn.Module, device: str) -> nn.Module:
        """Return the model as this rank holds it, on its device."""
        return model.to(device)

    def network(self, model: nn.Module) -> nn.Module:
        """Return what a training step calls, so that its backward adds up gradients of ranks."""
        return model

    def adding(self, is_last: bool) -> AbstractContextManager[Any]:
        """Enclose one of the passes that a step's gradient is accumulated in."""
        return nullcontext()

    def gradient(self, model: nn.Module, losses: Iterable[Callable[[], Tensor]]) -> Direction:
        """Return the gradient of the sum of losses, over all ranks, by parameter name."""
        import torch

        names, parameters = zip(*model.named_parameters(), strict=True)
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for loss in losses:
            for sum_, gradient in zip(total, torch.autograd.grad(loss(), parameters), strict=True):
                sum_ += gradient
        return dict(zip(names, total, strict=True))

    @contextmanager
    def moved(self, model: nn.Module, along: Direction, eps: float) -> Iterator[Any]:
        """Yield the model's forward pass at parameters + eps * along; its own bits stay."""
        yield _Shifted(model, along, eps)

    def whole(self, value: Tensor) -> Tensor:
        """Return a number as this rank has it, where it is spread over ranks."""
        return value

    # Decisions

    def first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns on the first rank, which may take its time."""
        return make()

    def decided(self, value: Tensor) -> Tensor:
        """Return the first rank's value."""
        return value

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether any rank raises it."""
        return flags

    def cause(self, error: BaseException, reason: str) -> str:
        """Return why a run failed; `reason` is this rank's own, of `error`."""
        return reason

    # Checkpoints

    def save(self, path: Path, content: dict[str, Any]) -> None:
        """Write a checkpoint over the last one."""
        from harness import checkpoint  # here, since it imports torch, and a spec is read without

        checkpoint.save(path, content)

    def load(self, path: Path) -> dict[str, Any] | None:
        """Return a checkpoint's content for `restore`, or None where there is none."""
        from harness import checkpoint

        return checkpoint.load(path)

    def restore(
        self, saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put a checkpoint's parameters and moments back."""
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])


class _Shifted:
    """A model's forward pass at parameters + eps * along, on tensors of its own."""

    def __init__(self, model: nn.Module, along: Direction, eps: float) -> None:
        self.model = model
        self.parameters = {
            name: parameter.detach().add(along[name], alpha=eps)
            for name, parameter in model.named_parameters()
        }

    def __call__(self, **inputs: Any) -> Any:
        import torch

        return torch.func.functional_call(self.model, self.parameters, kwargs=inputs)
