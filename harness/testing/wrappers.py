"""Mixers around a mixer: they look at every call, or change what it is told.

A wrapper is trained like any mixer, so what it checks is checked where methods live: in the loop,
beside a real model and optimizer.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from harness.api import Mixer, View
from harness.domains import row_weights, simplex
from harness.influence.flops import counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.api import Batch, Direction, State

_BESIDE = "beside:"
SERVICES = frozenset(name for name in vars(View) if not name.startswith("_"))


class StrictView:
    """A view that offers the contract's services and nothing else, some of them changed."""

    def __init__(self, view: Any, **changes: Any) -> None:
        """Wrap a view; `changes` are answers of its own."""

        def answer(name: str) -> Any:  # a closure: no attribute leads to the view
            found = changes[name] if name in changes else getattr(view, name)
            if not inspect.ismethod(found):
                return found
            return lambda *some, **named: found(*some, **named)  # and none to a service's owner

        vars(self)["_answer"] = answer

    def __getattr__(self, name: str) -> Any:
        if name not in SERVICES:
            raise AssertionError(f"the method reads view.{name}, which the contract does not offer")
        return vars(self)["_answer"](name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError(f"the method writes view.{name}; a view is for reading")


@dataclass(frozen=True)
class Wrapper(Mixer):
    """Passes every call on; `reweights` is the inner mixer's."""

    inner: Mixer

    @property
    def reweights(self) -> bool:  # type: ignore[override]
        """Whether the inner mixer changes the loss."""
        return self.inner.reweights

    def init(self, view: View) -> State:
        """Return the inner mixer's state."""
        return self.inner.init(view)

    def propose(self, view: View, state: State) -> Tensor:
        """Return the inner mixer's weights."""
        return self.inner.propose(view, state)

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Return the inner mixer's loss weights."""
        return self.inner.observe(view, state, batch, losses)


@dataclass(frozen=True)
class Guarded(Wrapper):
    """Checks every call: what it reads, leaves alone, returns, remembers, and is billed."""

    def init(self, view: View) -> State:
        """Check the first call."""
        state: State = self._called(view, "init", lambda strict: self.inner.init(strict))
        _check_state(state, self.inner)
        return state

    def propose(self, view: View, state: State) -> Tensor:
        """Check a proposal."""
        found = self._called(view, "propose", lambda strict: self.inner.propose(strict, state))
        _check_state(state, self.inner)
        simplex(found, view.domains, f"{_name(self.inner)}.propose at step {view.step}")
        weights: Tensor = found
        return weights

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Check an observation; losses and batch may not be written to either."""
        told = copy.deepcopy({**vars(batch), "losses": losses})
        found = self._called(
            view, "observe", lambda strict: self.inner.observe(strict, state, batch, losses)
        )
        _check_state(state, self.inner)
        where = f"{_name(self.inner)}.observe at step {view.step}"
        row_weights(found, len(batch.rows), self.inner.reweights, where)
        for name, value in {**vars(batch), "losses": losses}.items():
            assert torch.equal(value, told[name]), f"{where} writes to the batch's {name}"
        weights: Tensor = found
        return weights

    def _called(self, view: View, hook: str, call: Callable[[Any], Any]) -> Any:
        where, spent = f"{_name(self.inner)}.{hook} at step {view.step}", view.spent
        before = _surroundings(view)

        def finished(run_id: str) -> Any:
            with _disable_current_modes():  # what the harness counts when it opens a model
                return view.finished(run_id)

        with counter() as counted:
            found = call(StrictView(view, finished=finished))
        for what, one, other in zip(WATCHED, before, _surroundings(view), strict=True):
            assert _same(one, other), f"{where} changes {what}"
        done, billed = counted.get_total_flops(), view.spent - spent
        fair = math.isclose(done, billed, rel_tol=0.05)
        assert fair, f"{where} computes {done:.4g} operations and is billed {billed:.4g}"
        return found


WATCHED = ("parameters", "gradients", "the optimizer", "torch's generator", "numpy's generator",
           "Python's generator", "the mode of the model", "the view's own tensors")  # fmt: skip


def _surroundings(view: View) -> tuple[Any, ...]:
    model = view.model
    return (
        [p.detach().clone() for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        copy.deepcopy(view.optimizer.state_dict()),
        torch.get_rng_state(),
        np.random.get_state(),  # noqa: NPY002
        random.getstate(),
        (model.training, [p.requires_grad for p in model.parameters()]),
        [tensor.clone() for tensor in (view.prior, view.targets, view.seen, view.train_rows)],
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _check_state(state: State, inner: Mixer) -> None:
    for name, value in state.items():
        is_tensor = isinstance(name, str) and isinstance(value, torch.Tensor)
        assert is_tensor, f"{_name(inner)}: state[{name!r}] is {type(value).__name__}, no tensor"


def _name(mixer: Mixer) -> str:
    return type(mixer).__name__


@dataclass(frozen=True)
class Told(Wrapper):
    """Changes what the inner mixer is told of the run: by `observe` and by the view's services."""

    how: str = "constant losses"
    """constant losses, extreme losses, zero losses, one domain a batch, or zero prior."""

    def init(self, view: View) -> State:
        """Return the state of a mixer that sees the changed view."""
        return self.inner.init(self._seen(view))

    def propose(self, view: View, state: State) -> Tensor:
        """Return its weights."""
        return self.inner.propose(self._seen(view), state)

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Return its loss weights of changed losses, or of one domain's rows."""
        view = self._seen(view)
        if self.how == "one domain a batch":
            mine = batch.domains == batch.domains[0]
            some = self.inner.observe(view, state, batch.select(mine), losses[mine])
            return torch.ones(len(mine)).to(some).masked_scatter(mine, some)
        return self.inner.observe(view, state, batch, self._changed(batch, losses))

    def _changed(self, batch: Batch, losses: Tensor) -> Tensor:
        if self.how not in _LOSSES:
            return losses
        first, others = _LOSSES[self.how]
        return torch.where(batch.domains[:, None] == 0, first, others).to(losses) * batch.mask

    def _seen(self, view: View) -> View:
        changes: dict[str, Any] = {}
        if self.how == "zero prior" and len(view.domains) > 1:
            prior = view.prior.clone()
            prior[-1] = 0.0
            changes["prior"] = prior / prior.sum()
        if self.how in _LOSSES:
            scale = max(_LOSSES[self.how][0] / 3.0, 1e-6)  # a gradient grows as its loss does

            def token_losses(batch: Batch, *rest: Any, **named: Any) -> Tensor:
                return self._changed(batch, view.token_losses(batch, *rest, **named))

            def gradient(batch: Batch) -> Direction:
                return {name: scale * part for name, part in view.gradient(batch).items()}

            changes |= {"token_losses": token_losses, "gradient": gradient}
        seen: Any = StrictView(view, **changes)
        return seen  # type: ignore[no-any-return]


# Of the first domain, and of the others.
_LOSSES = {"constant losses": (3.0, 3.0), "extreme losses": (1e4, 1e-4), "zero losses": (0.0, 0.0)}


def told(losses: dict[str, float] | None, how: str) -> dict[str, float] | None:
    """Return what a plan is told of a run's losses by domain."""
    if losses is None or how not in _LOSSES:
        return losses
    first, others = _LOSSES[how]
    return {domain: others if i else first for i, domain in enumerate(sorted(losses))}


@dataclass(frozen=True)
class Reordered(Wrapper):
    """Runs the mixer beside itself in a world whose domains stand in another order."""

    order: tuple[int, ...] = field(default=())
    """The old place of each trained domain."""

    def init(self, view: View) -> State:
        """Return both states."""
        state, beside = self.inner.init(view), self.inner.init(self._seen(view))
        return {**state, **{_BESIDE + name: value for name, value in beside.items()}}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights, after comparing them with the other self's."""
        with _Parts(state) as (one, other):
            weights = self.inner.propose(view, one)
            beside = self.inner.propose(self._seen(view), other)
        self._compare(weights[list(self.order)], beside, f"weights at step {view.step}")
        return weights

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Return the loss weights, after comparing them with the other self's."""
        with _Parts(state) as (one, other):
            weights = self.inner.observe(view, one, batch, losses)
            moved = self._relabelled(batch, len(view.probe_domains))
            beside = self.inner.observe(self._seen(view), other, moved, losses)
        self._compare(weights, beside, f"loss weights at step {view.step}")
        return weights

    def _compare(self, wanted: Tensor, found: Tensor, what: str) -> None:
        close = torch.allclose(wanted.double(), found.double(), rtol=1e-4, atol=1e-7)
        assert close, f"{_name(self.inner)}: {what} depend on the domains' order: {wanted}, {found}"

    def _places(self, num: int) -> list[int]:
        return [*self.order, *range(len(self.order), num)]

    def _relabelled(self, batch: Batch, num: int) -> Batch:
        new = torch.empty(num, dtype=torch.int64)
        new[self._places(num)] = torch.arange(num)
        return replace(batch, domains=new.to(batch.domains.device)[batch.domains])

    def _sorted(self, batch: Batch, num: int) -> Batch:
        moved = self._relabelled(batch, num)
        return moved.select(moved.domains.argsort(stable=True))

    def _seen(self, view: View) -> View:
        order, num = list(self.order), len(view.probe_domains)
        places = self._places(num)
        seen: Any = StrictView(
            view,
            domains=tuple(view.domains[i] for i in order),
            probe_domains=tuple(view.probe_domains[i] for i in places),
            targets=view.targets[places],
            prior=view.prior[order],
            train_rows=view.train_rows[order],
            seen=view.seen[order],
            candidates=lambda per_domain: self._sorted(view.candidates(per_domain), num),
            probes=lambda n, fixed=False: self._sorted(view.probes(n, fixed), num),
            note=lambda name, values: None,
        )
        return seen  # type: ignore[no-any-return]


class _Parts:
    """Two states in one, put together again when they have been changed."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.parts: tuple[State, State] = ({}, {})
        for name, value in state.items():
            self.parts[name.startswith(_BESIDE)][name.removeprefix(_BESIDE)] = value

    def __enter__(self) -> tuple[State, State]:
        return self.parts

    def __exit__(self, *_: object) -> None:
        self.state.clear()
        one, other = self.parts
        self.state.update({**one, **{_BESIDE + name: value for name, value in other.items()}})
