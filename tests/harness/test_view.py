"""What a method sees of a run: exact services, every one billed, and nothing held out."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch, Direction, Mixer, View
from harness.corpus import TokenStore
from harness.loop import Loop
from harness.model import RowFlops, build_model, count_row_flops, token_losses
from harness.records import RECORDS, read_records
from harness.runner import Runner, RunResult
from harness.spec import Checkpoint, Evaluation, Model
from harness.view import RunView
from tests.reach import arrays_that_show, numbers_in, reachable
from tests.tiny import MakeLoop, MakeSpec, MakeView, Onlooker

TOKENS = 32


def direction(model: nn.Module, scale: float = 1.0) -> Direction:
    """Return a fixed direction in parameter space."""
    made = torch.Generator().manual_seed(5)
    return {
        name: scale * torch.randn(parameter.shape, generator=made)
        for name, parameter in model.named_parameters()
    }


def moved(model: nn.Module, along: Direction, eps: float) -> nn.Module:
    """Return a copy of the model at other parameters."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.add_(along[name], alpha=eps)
    return other


def partly_masked(batch: Batch) -> Batch:
    """Return the batch with every third target, and all of its second row, not counted."""
    mask = batch.mask.clone()
    mask[:, ::3] = False
    mask[1] = False
    return replace(batch, mask=mask)


def test_the_view_has_what_the_contract_says() -> None:
    """Names and parameters of every service, and every attribute, as in harness/api.py."""
    for name, member in vars(View).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            assert inspect.signature(getattr(RunView, name)) == inspect.signature(member), name
    for name in View.__annotations__:
        assert name in RunView.__dataclass_fields__ or isinstance(getattr(RunView, name), property)


def test_token_losses_are_the_models(make_view: MakeView) -> None:
    """Without a direction they are what the training step would see, masked entries 0."""
    view = make_view()
    batch = partly_masked(view.candidates(2))

    losses = view.token_losses(batch)

    with torch.no_grad():
        assert torch.equal(losses, token_losses(view.model, batch))
    assert losses.shape == batch.targets.shape
    assert bool((losses[~batch.mask] == 0).all())
    assert bool((losses[batch.mask] > 0).all())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("eps", [1e-2, -1e-3, 0.0])
def test_losses_along_a_direction_are_those_of_moved_parameters(
    make_view: MakeView, make_spec: MakeSpec, architecture: Any, eps: float
) -> None:
    """Bit for bit what a copy of the model at parameters + eps * direction gives, ties included."""
    view = make_view(make_spec(model=Model(architecture=architecture)))
    batch, along = view.candidates(2), direction(view.model)

    losses = view.token_losses(batch, along=along, eps=eps)

    with torch.no_grad():
        assert torch.equal(losses, token_losses(moved(view.model, along, eps), batch))
        assert torch.equal(losses, token_losses(view.model, batch)) is (eps == 0.0)


def test_steps_are_taken_in_float32_in_a_bfloat16_run(
    make_view: MakeView, make_spec: MakeSpec
) -> None:
    """A small step drowns in bfloat16; without a direction the run's own precision is used."""
    view = make_view(make_spec(precision="bfloat16"))
    batch, along = view.candidates(2), direction(view.model)
    with torch.no_grad():
        exact = token_losses(moved(view.model, along, 1e-4), batch)
        plain = token_losses(view.model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = token_losses(view.model, batch)

    assert torch.equal(view.token_losses(batch, along=along, eps=1e-4), exact)
    assert torch.equal(view.token_losses(batch, along=along, eps=0.0), plain)
    assert torch.equal(view.token_losses(batch), coarse)
    assert not torch.equal(plain, coarse)


def test_the_gradient_is_autograds(make_view: MakeView) -> None:
    """Of the mean over counted targets, by parameter name."""
    view = make_view()
    batch = partly_masked(view.probes(2))

    gradient = view.gradient(batch)

    loss = token_losses(view.model, batch).sum() / batch.mask.sum()
    names, parameters = zip(*view.model.named_parameters(), strict=True)
    by_hand = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    assert gradient.keys() == by_hand.keys()
    assert all(torch.equal(gradient[name], by_hand[name]) for name in by_hand)
    assert float(torch.stack([g.norm() for g in gradient.values()]).norm()) > 0.1


def test_chunks_change_nothing_but_memory(make_view: MakeView) -> None:
    """Losses and gradients of seven rows are the same three at a time, with uneven masks."""
    view = make_view()
    batch = partly_masked(view.candidates(3)).select(slice(0, 7))
    whole = view.token_losses(batch), view.gradient(batch)
    view.chunk_rows = 3

    losses, gradient = view.token_losses(batch), view.gradient(batch)

    torch.testing.assert_close(losses, whole[0], rtol=1e-5, atol=1e-6)
    for name in gradient:
        torch.testing.assert_close(gradient[name], whole[1][name], rtol=1e-4, atol=1e-7)


def snapshot(view: RunView) -> dict[str, Any]:
    """Return what no service may change."""
    return {
        "parameters": [p.detach().clone() for p in view.model.parameters()],
        "moments": copy.deepcopy(view.optimizer.state_dict()),
        "seen": view.seen.clone(),
        "rng": torch.get_rng_state(),
        "training": view.model.training,
        "step": view.step,
    }


def same(one: Any, two: Any) -> bool:
    """Compare nested values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


SERVICES: dict[str, Callable[[RunView], object]] = {
    "candidates": lambda view: view.candidates(3),
    "probes": lambda view: view.probes(3),
    "token_losses": lambda view: view.token_losses(view.candidates(3)),
    "token_losses along": lambda view: view.token_losses(
        view.candidates(3), along=direction(view.model), eps=0.1
    ),
    "gradient": lambda view: view.gradient(view.candidates(3)),
    "rng": lambda view: torch.rand(3, generator=view.rng("x")),
    "bill": lambda view: view.bill(1e9, 5),
    "note": lambda view: view.note("x", {"y": 1.0}),
}


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_changes_the_run(make_loop: MakeLoop, make_spec: MakeSpec, service: str) -> None:
    """Parameters, moments, rows seen, the global generator: bit for bit as before, no gradients."""
    loop = make_loop(make_spec(num_steps=2))
    loop.run()  # so that there are moments
    before = snapshot(loop.view)

    SERVICES[service](loop.view)

    assert same(before, snapshot(loop.view))
    assert all(parameter.grad is None for parameter in loop.view.model.parameters())
    assert all(parameter.requires_grad for parameter in loop.view.model.parameters())


def test_randomness_is_keyed_by_name_step_and_data_seed(
    make_view: MakeView, make_spec: MakeSpec
) -> None:
    """Asking twice gives the same numbers; another name, step or data seed gives others."""
    view, other = make_view(), make_view(make_spec(data_seed=1))

    def first(v: RunView, name: str) -> float:
        return float(torch.rand(1, generator=v.rng(name)))

    numbers = [first(view, "a"), first(view, "b"), first(other, "a")]
    assert first(view, "a") == numbers[0]
    view.step = 1
    numbers.append(first(view, "a"))
    assert len(set(numbers)) == 4


def test_rows_to_look_at_are_new_at_each_step_unless_fixed(make_view: MakeView) -> None:
    """The view passes its step on; the fixed probe set is one and the same."""
    view = make_view()
    before = view.candidates(4).rows, view.probes(4).rows, view.probes(4, fixed=True).rows
    view.step = 1
    after = view.candidates(4).rows, view.probes(4).rows, view.probes(4, fixed=True).rows

    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert view.probes(2).domains.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert view.candidates(2).domains.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_facts_of_a_run(make_view: MakeView, store: TokenStore) -> None:
    """Trained domains first; targets over all probe domains; the prior by train tokens."""
    view = make_view()
    sizes = [len(store.stream(name, "train")) for name in "abc"]

    assert view.domains == ("a", "b", "c")
    assert view.probe_domains == ("a", "b", "c", "d")
    assert view.targets.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert view.prior.tolist() == pytest.approx([size / sum(sizes) for size in sizes], rel=1e-12)
    assert (view.step, view.num_steps, view.seen.tolist()) == (0, 12, [0, 0, 0])


def test_every_service_is_billed_to_the_method(make_view: MakeView) -> None:
    """One forward a row for losses, forward and backward for gradients, and their tokens."""
    view = make_view()
    mixer, flops = view.meter.accounts["mixer"], view.row_flops
    view.token_losses(view.candidates(2))
    assert (mixer.flops, mixer.tokens) == (6 * flops.forward, 6 * TOKENS)

    view.token_losses(view.candidates(2), along=direction(view.model), eps=0.1)
    assert (mixer.flops, mixer.tokens) == (12 * flops.forward, 12 * TOKENS)

    view.gradient(view.probes(1))
    assert mixer.flops == 12 * flops.forward + 4 * (flops.forward + flops.backward)
    assert mixer.tokens == 16 * TOKENS
    assert mixer.seconds > 0

    view.bill(100.0, tokens=7)
    assert mixer.flops == 12 * flops.forward + 4 * (flops.forward + flops.backward) + 100.0
    assert mixer.tokens == 16 * TOKENS + 7
    others = (view.meter.accounts[name] for name in ("train", "eval", "save"))
    assert all((cost.flops, cost.tokens, cost.seconds) == (0.0, 0, 0.0) for cost in others)


def test_an_earlier_run_is_opened_once_and_billed_by_its_own_size(
    make_loop: MakeLoop, make_spec: MakeSpec, store: TokenStore
) -> None:
    """A smaller reference model costs less per row."""
    opened: list[str] = []
    spec = Model(config={"n_layer": 1, "n_embd": 16, "n_head": 2})
    small = build_model(spec, store.vocab_size, TOKENS, seed=9)
    flops = count_row_flops(spec, store.vocab_size, TOKENS)

    def open_model(run_id: str) -> tuple[nn.Module, RowFlops]:
        opened.append(run_id)
        return small, flops

    view = make_loop(make_spec(), open_model=open_model).view
    batch = view.candidates(2)

    losses = view.token_losses(batch, model=view.finished("run1"))

    assert view.finished("run1") is small
    assert opened == ["run1"]
    with torch.no_grad():
        assert torch.equal(losses, token_losses(small, batch))
    assert view.meter.accounts["mixer"].flops == 6 * flops.forward
    assert flops.forward < view.row_flops.forward / 1.5


def test_a_note_is_a_copy_with_its_step(make_view: MakeView) -> None:
    """What the method does with its own dict afterwards changes no record."""
    view = make_view()
    view.step, values = 4, {"score": 1.0}
    view.note("rebalance", values)
    values["score"] = 2.0

    assert view.notes == [
        {"kind": "note", "step": 4, "name": "rebalance", "values": {"score": 1.0}}
    ]


# ---- fairness ---------------------------------------------------------------------------------

CAUGHT: dict[str, Any] = {}
BOTH = Evaluation(every=2, rows=8, splits=("heldout", "tuning"))


@dataclass(frozen=True)
class Spy(Mixer):
    """Uses every service, and looks around in the middle of a run, after an evaluation."""

    def propose(self, view: View, state: dict[str, Tensor]) -> Tensor:
        """Remember what can be reached at step 5, while the hook runs."""
        view.gradient(view.probes(2))
        if view.step == 5:
            found = list(reachable(view))
            CAUGHT["objects"] = found
            CAUGHT["numbers"] = numbers_in(view)
            CAUGHT["view"] = view
        return view.prior


@pytest.fixture
def spied(make_loop: MakeLoop, make_spec: MakeSpec) -> Loop:
    """Return a finished run with both splits evaluated, whose method looked around."""
    CAUGHT.clear()
    loop = make_loop(make_spec(mixer=Spy(), evaluation=BOTH, num_steps=6))
    loop.run()
    return loop


def secrets(store: TokenStore) -> list[Any]:
    """Return every stream that no method may see."""
    return [store.stream(name, split) for name in store.domains for split in ("heldout", "tuning")]


def test_no_held_out_token_can_be_reached_from_a_view(spied: Loop, store: TokenStore) -> None:
    """Neither the arrays nor a copy of any of their first rows, in a run that evaluates both."""
    for stream in secrets(store):
        assert arrays_that_show(CAUGHT["objects"], stream, TOKENS) == []
        assert arrays_that_show(spied.view, stream, TOKENS) == []


def test_the_walk_finds_what_is_there(spied: Loop, store: TokenStore) -> None:
    """Controls: train and probe streams behind the view, held-out ones behind the evaluator."""
    for name in store.trained:
        assert arrays_that_show(spied.view, store.stream(name, "train"), TOKENS)
    for name in store.domains:
        assert arrays_that_show(spied.view, store.stream(name, "probe"), TOKENS)
    for stream in secrets(store):
        assert arrays_that_show(spied.evaluator, stream, TOKENS)
        assert arrays_that_show(spied, stream, TOKENS)


@pytest.mark.parametrize("hide", ["closure", "partial", "slot", "base", "copy", "method"])
def test_the_walk_finds_what_is_hidden(make_view: MakeView, store: TokenStore, hide: str) -> None:
    """Controls: a held-out array behind a view by each way that the walk follows."""
    secret, view = store.stream("a", "heldout"), make_view()
    assert arrays_that_show(view, secret, TOKENS) == []

    class Slotted:
        __slots__ = ("kept",)

        def __init__(self, kept: object) -> None:
            self.kept = kept

        def get(self) -> object:
            return self.kept

    slotted = Slotted([{"x": secret}])
    ways: dict[str, Any] = {
        "closure": lambda run_id: secret,
        "partial": functools.partial(print, secret),
        "slot": slotted,
        "base": secret[3:5],
        "copy": (torch.from_numpy(secret[:100].astype("int32")),),
        "method": slotted.get,
    }
    view.open_model = ways[hide]

    assert arrays_that_show(view, secret, TOKENS)


def test_no_held_out_number_can_be_reached_from_a_view(spied: Loop) -> None:
    """Losses that the referee measured before step 5 are not behind the view at step 5."""
    records = list(read_records(spied.folder / RECORDS))
    measured = {
        record[key]
        for record in records
        if record["kind"] == "eval"
        for key in ("nats_per_token", "bits_per_byte")
    }

    assert len(measured) > 30
    assert not measured & CAUGHT["numbers"]
    assert measured <= numbers_in(records)
    assert set(CAUGHT["view"].prior.tolist()) <= CAUGHT["numbers"]


@pytest.fixture
def result(make_spec: MakeSpec, store: TokenStore, tmp_path: Path) -> tuple[RunResult, set[float]]:
    """Return a run's result as a plan gets it, and every number that it must not hold."""
    runner = Runner(tmp_path, store, Checkpoint(minutes=None), lambda spec: Onlooker())
    spec = make_spec(evaluation=BOTH, num_steps=4, measure_probes=True, mixer=Spy())
    found = runner.ensure(spec)
    records = read_records(tmp_path / "runs" / spec.run_id / RECORDS)
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert {record["split"] for record in evaluations} == {"heldout", "tuning"}
    return found, {r[key] for r in evaluations for key in ("nats_per_token", "bits_per_byte")}


def test_a_result_shows_no_held_out_or_tuning_number(
    result: tuple[RunResult, set[float]], store: TokenStore
) -> None:
    """A plan learns of a run: mixer state, weights, probe losses; no array of another split."""
    found, secret_numbers = result
    numbers = numbers_in(found)

    assert not numbers & secret_numbers
    assert found.probe_losses is not None
    assert set(found.probe_losses.values()) <= numbers  # control: it finds what is there
    assert set(found.weights.flatten().tolist()) <= numbers
    assert found.weights.shape == (4, 3)
    for stream in secrets(store):
        assert arrays_that_show(found, stream, TOKENS) == []


def test_an_auxiliary_run_has_no_evaluator(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """Nothing held out is even opened for a run that a plan asks for on the way."""
    loop = make_loop(make_spec().auxiliary("proxy"))
    loop.run()

    assert loop.evaluator is None
    assert {record["kind"] for record in read_records(loop.folder / RECORDS)} == {"step"}
