"""The one training loop: a plain loop where a method does nothing, and resumable to the bit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from baselines.doremi import DoReMiProxy
from baselines.influence import Influence
from baselines.static import Static
from harness import checkpoint
from harness.api import Batch, Mixer, View
from harness.corpus import TokenStore
from harness.cross_entropy import cross_entropy
from harness.influence.directional_estimator import Directional
from harness.loop import InterruptedRunError, Loop
from harness.model import build_model
from harness.queued import RunFailedError
from harness.records import CHECKPOINT, RECORDS, read_records
from harness.rng import generator
from harness.runner import Runner, open_finished
from harness.spec import Batching, Checkpoint, Evaluation, Optimizer, RunSpec
from tests.tiny import (
    ONLY_AT_THE_END,
    MakeLoop,
    MakeSpec,
    Onlooker,
    OpenModel,
    assemble_loop,
)

STEPS, ROWS, TOKENS = 12, 8, 32


# ---- against a plain loop -----------------------------------------------------------------------


def plain_rate(step: int) -> float:
    """Return the tiny run's schedule: one step of warm-up in twelve, then a cosine to a tenth."""
    if step == 0:
        return 3e-3
    left = (STEPS - 1 - step) / (STEPS - 2)
    return 3e-3 * (0.1 + 0.9 * (1 - math.cos(math.pi * left)) / 2)


def plain_rows(store: TokenStore, step: int, counts: dict[str, int]) -> Tensor:
    """Return the rows [B, T + 1] of a uniform mixture of three domains, drawn in eight lines."""
    rows = []
    for u in torch.rand(ROWS, dtype=torch.float64, generator=generator(0, "draw", step)).tolist():
        name = "abc"[int(u * 3)]
        size = store.num_rows(name, "train", TOKENS)
        order = torch.randperm(
            size, generator=generator(0, "order", name, counts[name] // size)
        ).numpy()
        place = order[[counts[name] % size]]
        rows.append(torch.from_numpy(store.rows(name, "train", place, TOKENS)))
        counts[name] += 1
    return torch.cat(rows)


def plain_training(spec: RunSpec, store: TokenStore) -> tuple[nn.Module, list[float], list[float]]:
    """Train as anyone would; return the model, and the loss and gradient norm of every step."""
    model = build_model(spec.model, store.vocab_size, TOKENS, seed=0)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    losses, norms, counts = [], [], dict.fromkeys("abc", 0)
    for step in range(STEPS):
        rows = plain_rows(store, step, counts)
        logits = model(input_ids=rows[:, :-1]).logits
        targets = rows[:, 1:].flatten()
        loss = cross_entropy(logits.flatten(0, 1), targets).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return model, losses, norms


def test_static_is_a_plain_training_loop_bit_for_bit(
    make_loop: MakeLoop, make_spec: MakeSpec, store: TokenStore
) -> None:
    """Views, meters, records and evaluations leave no trace in any parameter."""
    loop = make_loop(make_spec())
    loop.run()
    plain, losses, norms = plain_training(loop.spec, store)

    ours = dict(loop.view.model.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, ours[name]), name
    steps = [r for r in read_records(loop.folder / RECORDS) if r["kind"] == "step"]
    assert [r["loss"] for r in steps] == losses
    assert [r["grad_norm"] for r in steps] == norms
    assert [r["lr"] for r in steps] == pytest.approx([plain_rate(s) for s in range(STEPS)])
    assert losses[-1] < losses[0] - 0.3  # it learns, so that equality means something


def test_records_describe_the_batch(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """Rows and losses per domain belong to the weights drawn with; the mean of all is the loss."""
    loop = make_loop(make_spec(mixer=Static(weights={"a": 3, "c": 1})))
    loop.run()
    records = read_records(loop.folder / RECORDS)
    steps = [r for r in records if r["kind"] == "step"]

    assert [r["step"] for r in steps] == list(range(1, STEPS + 1))
    for r in steps:
        assert r["tokens"] == r["step"] * ROWS * TOKENS
        assert r["weights"] == [0.75, 0.0, 0.25]
        assert sum(r["rows"]) == ROWS
        parts = zip(r["domain_losses"], r["rows"], strict=True)
        assert r["loss"] == pytest.approx(sum((x or 0) * n for x, n in parts) / ROWS, rel=1e-6)
        assert [x is None for x in r["domain_losses"]] == [n == 0 for n in r["rows"]]
    total = torch.tensor([r["rows"] for r in steps]).sum(0)
    assert torch.equal(total, loop.view.seen)


def test_evaluations_come_at_the_start_every_so_often_and_at_the_end(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Steps 0, 5, 10 and the last, 12; every domain each time, trained on or not."""
    loop = make_loop(make_spec(evaluation=Evaluation(every=5, rows=2)))
    loop.run()
    records = [r for r in read_records(loop.folder / RECORDS) if r["kind"] == "eval"]

    assert [(r["step"], r["domain"]) for r in records] == [
        (step, name) for step in (0, 5, 10, 12) for name in "abcd"
    ]
    assert {r["split"] for r in records} == {"heldout"}
    assert [r["tokens"] for r in records[::4]] == [0, 5 * 256, 10 * 256, 12 * 256]


@pytest.mark.parametrize(
    ("splits", "expected"), [(("heldout",), 4), (("heldout", "tuning"), 4), (("tuning",), 0)]
)
def test_the_probe_set_is_measured_once_where_results_are_compared(
    make_loop: MakeLoop, make_spec: MakeSpec, splits: Any, expected: int
) -> None:
    """After the last step, when no hook follows; a trial of a study has no use for it."""
    loop = make_loop(make_spec(evaluation=Evaluation(every=5, rows=2, splits=splits)))
    loop.run()
    records = read_records(loop.folder / RECORDS)
    found = [r for r in records if r["kind"] == "probe"]

    assert len(found) == expected
    assert {r["step"] for r in found} <= {12}
    assert records[-expected:] == found if expected else True
    assert {r["split"] for r in records if r["kind"] == "eval"} == set(splits)


# ---- micro-batches ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reweighting(Mixer):
    """Weighs each row by its loss, and remembers the batch's mean."""

    reweights: ClassVar[bool] = True

    def init(self, view: View) -> dict[str, Tensor]:
        """Remember nothing yet."""
        return {"mean": torch.tensor(0.0, dtype=torch.float64)}

    def propose(self, view: View, state: dict[str, Tensor]) -> Tensor:
        """Draw uniformly."""
        return torch.ones(3)

    def observe(self, view: View, state: dict[str, Tensor], batch: Batch, losses: Tensor) -> Tensor:
        """Return the rows' mean losses: uneven between micro-batches."""
        state["mean"] = losses.double().mean()
        return losses.mean(1) ** 2


@dataclass(frozen=True)
class Watching(Reweighting):
    """Sees the losses of the whole batch, and changes nothing."""

    reweights: ClassVar[bool] = False

    def observe(self, view: View, state: dict[str, Tensor], batch: Batch, losses: Tensor) -> Tensor:
        """Return ones."""
        super().observe(view, state, batch, losses)
        return torch.ones(len(losses))


def trained(make_loop: MakeLoop, spec: RunSpec) -> Loop:
    """Return the loop of a spec, run."""
    loop = make_loop(spec)
    loop.run()
    return loop


@pytest.mark.parametrize(
    "mixer", [Static(), Watching(), Reweighting()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("micro_rows", [1, 4])
def test_micro_batches_change_nothing_but_memory(
    make_loop: MakeLoop, make_spec: MakeSpec, mixer: Mixer, micro_rows: int
) -> None:
    """Losses, gradient norms and the mixer's state agree to 1e-6 over all steps."""
    # a plain optimizer's size of step: AdamW's first steps turn rounding into full steps
    spec = make_spec(mixer=mixer, num_steps=6, optimizer=Optimizer(learning_rate=3e-3, eps=1e-3))
    whole = trained(make_loop, spec)
    parts = trained(
        make_loop, replace(spec, batch=Batching(rows=ROWS, tokens=TOKENS, micro_rows=micro_rows))
    )

    one, two = (read_records(loop.folder / RECORDS) for loop in (whole, parts))
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in {"loss", "grad_norm", "nats_per_token"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-6), (key, a["step"])
        assert a.get("rows") == b.get("rows")
    for p, q in zip(whole.view.model.parameters(), parts.view.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    for name in whole.state:
        torch.testing.assert_close(whole.state[name], parts.state[name], rtol=1e-6, atol=0)


def test_losses_gathered_ahead_are_billed_to_who_needs_them(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """With micro-batches, reweighting costs a forward of every row; watching costs none."""
    batch = Batching(rows=ROWS, tokens=TOKENS, micro_rows=4)
    costs = {}
    for mixer in (Reweighting(), Watching()):
        loop = trained(make_loop, make_spec(mixer=mixer, batch=batch, num_steps=3))
        costs[type(mixer)] = loop.meter.accounts["mixer"]
        forward = loop.view.row_flops.forward

    assert costs[Reweighting].flops == pytest.approx(3 * ROWS * forward)
    assert costs[Reweighting].tokens == 3 * ROWS * TOKENS
    assert (costs[Watching].flops, costs[Watching].tokens) == (0.0, 0)


def test_reweighting_is_a_weighted_mean_over_the_whole_batch(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """The first step's loss by hand: sum of w x loss over sum of w, by token."""
    loop = make_loop(make_spec(mixer=Reweighting(), num_steps=1, evaluation=None))
    batch = loop.stream.draw(torch.ones(3).double(), torch.zeros(3, dtype=torch.int64), 0, ROWS)
    losses = loop.view.token_losses(batch).double()
    weight = losses.mean(1) ** 2

    loop.run()

    (record,) = read_records(loop.folder / RECORDS)
    wanted = float((weight[:, None] * losses).sum() / (weight.sum() * TOKENS))
    assert record["loss"] == pytest.approx(wanted, rel=1e-6)
    assert record["loss"] > float(losses.mean()) * (1 + 1e-5)


# ---- what stops a run ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Mixer):
    """Misbehaves in one way at one step."""

    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    rows: tuple[float, ...] = (1.0,) * ROWS
    step: int = 2

    def propose(self, view: View, state: dict[str, Tensor]) -> Tensor:
        """Return the given weights at the given step."""
        return torch.tensor(self.weights) if view.step == self.step else view.prior

    def observe(self, view: View, state: dict[str, Tensor], batch: Batch, losses: Tensor) -> Tensor:
        """Return the given row weights at the given step."""
        return torch.tensor(self.rows) if view.step == self.step else torch.ones(ROWS)


@dataclass(frozen=True)
class BrokenReweighting(Broken):
    """The same, where row weights are allowed."""

    reweights: ClassVar[bool] = True


nan = float("nan")


@pytest.mark.parametrize(
    ("mixer", "says"),
    [
        (Broken(weights=(1, nan, 1)), "proposed at step 2: the weight of domain 'b' is nan"),
        (Broken(weights=(1, 1, -1)), "proposed at step 2: the weight of domain 'c' is -1"),
        (Broken(weights=(0, 0, 0)), "proposed at step 2: all weights are zero"),
        (Broken(weights=(1, 1)), "proposed at step 2: expected 3 weights"),
        (Broken(rows=(1,) * 7 + (0.5,)), "weights other than 1; set reweights = True"),
        (Broken(rows=(1,) * 7), "observe at step 2: bad weights"),
        (BrokenReweighting(rows=(1,) * 7), "observe at step 2: bad weights"),
        (BrokenReweighting(rows=(1,) * 7 + (-1,)), "observe at step 2: bad weights"),
        (BrokenReweighting(rows=(1,) * 7 + (nan,)), "observe at step 2: bad weights"),
        (BrokenReweighting(rows=(0,) * 8), "observe at step 2: all loss weights are 0"),
    ],
)
@pytest.mark.parametrize("micro_rows", [None, 4])
def test_a_method_that_misbehaves_is_stopped_with_its_step(
    make_loop: MakeLoop, make_spec: MakeSpec, mixer: Mixer, says: str, micro_rows: int | None
) -> None:
    """The message names the step, and no record of that step is written."""
    batch = Batching(rows=ROWS, tokens=TOKENS, micro_rows=micro_rows)
    loop = make_loop(make_spec(mixer=mixer, batch=batch, evaluation=None))

    with pytest.raises(ValueError, match=says):
        loop.run()

    assert [r["step"] for r in read_records(loop.folder / RECORDS)] == [1, 2]


def test_row_weights_are_allowed_where_they_are_announced(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Zeros select rows; the loss is that of the others."""
    rows = (0.0,) * 7 + (2.0,)
    loop = trained(make_loop, make_spec(mixer=BrokenReweighting(rows=rows, step=0), num_steps=1))

    steps = [r for r in read_records(loop.folder / RECORDS) if r["kind"] == "step"]
    assert len(steps) == 1


class Poison(Onlooker):
    """Puts a value into a parameter when a record is written."""

    def __init__(self, parameter: str, value: float, step: int) -> None:
        super().__init__()
        self.parameter, self.value, self.step = parameter, value, step
        self.loop: Loop | None = None

    def record(self, record: dict[str, Any]) -> None:
        """Poison the model after its step."""
        super().record(record)
        if record["kind"] == "step" and record["step"] == self.step:
            assert self.loop is not None
            with torch.no_grad():
                self.loop.view.model.get_parameter(self.parameter).fill_(self.value)


@pytest.mark.parametrize("micro_rows", [None, 4])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(
    make_loop: MakeLoop, make_spec: MakeSpec, micro_rows: int | None
) -> None:
    """A parameter turns NaN after step 3: the next update is number 3, counted from 0."""
    watch = Poison("transformer.ln_f.weight", float("nan"), step=3)
    batch = Batching(rows=ROWS, tokens=TOKENS, micro_rows=micro_rows)
    watch.loop = make_loop(make_spec(evaluation=None, batch=batch), watch=watch)

    with pytest.raises(RunFailedError, match=r"^the training loss is nan at step 3$"):
        watch.loop.run()

    assert [r["step"] for r in read_records(watch.loop.folder / RECORDS)] == [1, 2, 3]


def test_a_gradient_that_is_no_number_names_the_step_and_the_parameter(
    make_loop: MakeLoop, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss can be finite where its gradient is not."""
    loop = make_loop(make_spec(evaluation=None, num_steps=2))
    name = "transformer.h.1.ln_2.bias"
    loop.view.model.get_parameter(name).register_hook(  # type: ignore[no-untyped-call]
        lambda grad: grad * float("inf")
    )

    with pytest.raises(RunFailedError, match=rf"gradient norm is \w+ at step 0, .*{name}$"):
        loop.run()

    assert read_records(loop.folder / RECORDS) == []


def test_an_evaluation_that_is_no_number_names_the_domain(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """A model that is broken from the start fails at its first evaluation."""
    loop = make_loop(make_spec())
    with torch.no_grad():
        loop.view.model.get_parameter("transformer.ln_f.weight").fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="domain 'a' is nan"):
        loop.run()


def test_a_run_that_repeats_its_data_too_often_is_stopped(
    make_loop: MakeLoop, make_spec: MakeSpec, store: TokenStore
) -> None:
    """One line names the domain, the passes, the cap and what to do; others are not limited."""
    size = store.num_rows("b", "train", TOKENS)
    spec = make_spec(mixer=Static(weights={"b": 1}), max_repetitions=0.5, num_steps=40)

    with pytest.raises(RunFailedError) as caught:
        make_loop(spec).run()

    step = math.floor(0.5 * size / ROWS) + 1
    passes = step * ROWS / size
    message = str(caught.value)
    assert f"'b' was read {passes:.2f} times by step {step}, over max_repetitions = 0.5" in message
    assert len(message.splitlines()) == 1


def test_repetition_counts_passes_over_rows(
    make_loop: MakeLoop, make_spec: MakeSpec, store: TokenStore
) -> None:
    """Rows drawn over rows there are, per trained domain."""
    loop = trained(make_loop, make_spec(mixer=Static(weights={"a": 1}), num_steps=STEPS))

    wanted = STEPS * ROWS / store.num_rows("a", "train", TOKENS)
    assert loop.repetitions() == {"a": wanted, "b": 0.0, "c": 0.0}
    assert wanted > 1


# ---- resuming -----------------------------------------------------------------------------------

HIDDEN = {"calls": 0}


@dataclass(frozen=True)
class Hiding(Mixer):
    """Keeps state where no checkpoint finds it."""

    def propose(self, view: View, state: dict[str, Tensor]) -> Tensor:
        """Count calls in a module-level dict, and let the count decide."""
        HIDDEN["calls"] += 1
        return torch.tensor([1.0, 1.0 + HIDDEN["calls"], 1.0])


INFLUENCE = Influence(
    every=4, rows=3, probe_rows=3, estimator=Directional(check_rows=2), memory=0.5
)


@dataclass
class Trial:
    """One spec, run with and without interruptions, in folders of its own."""

    spec: RunSpec
    store: TokenStore
    folder: Path
    open_model: OpenModel
    whole: Loop = field(init=False)  # run without an interruption

    def __post_init__(self) -> None:
        self.whole = self.run(self.folder / "whole")

    def run(
        self, folder: Path, watch: Onlooker | None = None, every: Checkpoint = ONLY_AT_THE_END
    ) -> Loop:
        """Run, or go on with, the copy of the run in a folder."""
        loop = assemble_loop(self.spec, self.store, folder, watch, self.open_model, every)
        loop.run()
        return loop


FindTrial = Callable[[str], Trial]


@pytest.fixture(scope="session")
def find_trial(
    make_spec: MakeSpec, store: TokenStore, tmp_path_factory: pytest.TempPathFactory
) -> FindTrial:
    """Return a function from a method's name to a trial of it; DoReMi's reference is a real run."""
    out = tmp_path_factory.mktemp("reference")
    runner = Runner(out, store, ONLY_AT_THE_END, lambda spec: Onlooker())
    reference = runner.ensure(make_spec(num_steps=3).auxiliary("reference", mixer=Static()))
    mixers: dict[str, Mixer] = {
        "static": Static(weights="natural"),
        "influence": INFLUENCE,
        "doremi proxy": DoReMiProxy(eta=1.0, c=1e-3, reference=reference.run_id),
        "hiding": Hiding(),
    }

    @cache
    def find(name: str) -> Trial:
        folder = tmp_path_factory.mktemp("trial")
        spec, open_model = make_spec(mixer=mixers[name]), partial(open_finished, out / "runs")
        return Trial(spec, store, folder, open_model)

    return find


def without_seconds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without wall time."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_equal_bits(one: Any, two: Any, place: str = "") -> None:
    """Compare nested values, tensors bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), place
        for key in one:
            assert_equal_bits(one[key], two[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), place
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal_bits(a, b, f"{place}[{i}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, two), place
    else:
        assert one == two, place


def assert_same_run(one: Loop, two: Loop) -> None:
    """Compare everything that two copies of a run leave on disk, but wall time and memory."""
    records = [read_records(loop.folder / RECORDS) for loop in (one, two)]
    assert without_seconds(records[0]) == without_seconds(records[1])
    saved = [checkpoint.load(loop.folder / CHECKPOINT) for loop in (one, two)]
    for content in saved:
        assert content is not None
        content.pop("records_bytes")  # counts the digits of seconds
        for cost in content["cost"].values():
            cost.pop("seconds")
            cost.pop("peak_bytes")
    assert_equal_bits(saved[0], saved[1])
    assert_equal_bits(
        one.view.model.state_dict(), {**two.view.model.state_dict()}, "final parameters"
    )


METHODS = ["static", "influence", "doremi proxy"]
methods = pytest.mark.parametrize("method", METHODS)


@methods
@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_run_resumes_to_the_same_bits(
    find_trial: FindTrial, tmp_path: Path, method: str, stop: int
) -> None:
    """Parameters, optimizer, mixer state, records and costs; step 4 is a rebalance step."""
    trial = find_trial(method)
    with pytest.raises(InterruptedRunError):
        trial.run(tmp_path, Onlooker(stop_after=stop))
    assert max(r["step"] for r in read_records(tmp_path / RECORDS)) == stop

    resumed = trial.run(tmp_path)

    assert_same_run(trial.whole, resumed)
    steps = [r["step"] for r in read_records(tmp_path / RECORDS) if r["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))


@methods
def test_a_run_may_be_stopped_again_and_again(
    find_trial: FindTrial, tmp_path: Path, method: str
) -> None:
    """Six interruptions leave the same bits as none."""
    trial = find_trial(method)
    for stop in (1, 2, 5, 8, 10, 11):
        with pytest.raises(InterruptedRunError):
            trial.run(tmp_path, Onlooker(stop_after=stop))

    assert_same_run(trial.whole, trial.run(tmp_path))


@pytest.mark.parametrize(
    ("method", "kill"), [*((method, kill) for method in METHODS for kill in (0, 7)), ("static", 12)]
)
def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_bits(
    find_trial: FindTrial, tmp_path: Path, method: str, kill: int
) -> None:
    """Killed at a record, after a checkpoint every 3 steps: what came after it is done again."""
    trial, every = find_trial(method), Checkpoint(minutes=None, steps=3)
    with pytest.raises(KeyboardInterrupt):
        trial.run(tmp_path, Onlooker(kill_after=kill), every)
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(b'{"kind": "step", "step": 1')

    assert_same_run(trial.whole, trial.run(tmp_path))


def test_a_finished_run_resumes_to_itself(find_trial: FindTrial, tmp_path: Path) -> None:
    """Killed between the last checkpoint and its header: nothing is trained again."""
    trial = find_trial("influence")
    trial.run(tmp_path)

    assert_same_run(trial.whole, trial.run(tmp_path))


def test_a_watch_hears_of_every_record_of_a_resumed_run(
    find_trial: FindTrial, tmp_path: Path
) -> None:
    """A tracker that starts with the resumed process mirrors the whole run."""
    trial, watch = find_trial("influence"), Onlooker()
    with pytest.raises(InterruptedRunError):
        trial.run(tmp_path, Onlooker(stop_after=5))

    trial.run(tmp_path, watch)

    assert watch.records == read_records(tmp_path / RECORDS)


def test_hidden_state_is_caught(find_trial: FindTrial, tmp_path: Path) -> None:
    """Control: a method that remembers outside of its state fails the comparison."""
    HIDDEN["calls"] = 0
    trial = find_trial("hiding")
    HIDDEN["calls"] = 0
    assert_same_run(trial.whole, trial.run(tmp_path / "in one go"))
    HIDDEN["calls"] = 0
    with pytest.raises(InterruptedRunError):
        trial.run(tmp_path / "resumed", Onlooker(stop_after=5))
    HIDDEN["calls"] = 0  # another process

    resumed = trial.run(tmp_path / "resumed")

    with pytest.raises(AssertionError):
        assert_same_run(trial.whole, resumed)


def test_the_influence_runs_above_do_rebalance(find_trial: FindTrial) -> None:
    """Control: weights move at steps 4 and 8, so that resuming has something to get wrong."""
    records = read_records(find_trial("influence").whole.folder / RECORDS)
    weights = [r["weights"] for r in records if r["kind"] == "step"]
    notes = [(r["step"], r["name"]) for r in records if r["kind"] == "note"]

    assert notes == [(4, "rebalance"), (4, "fidelity"), (8, "rebalance")]
    assert weights[0] == weights[3] == pytest.approx([1 / 3] * 3)
    assert weights[3] != weights[4] == weights[7] != weights[8]


@methods
def test_a_run_hears_nothing_of_the_global_generators(
    find_trial: FindTrial, tmp_path: Path, method: str
) -> None:
    """Whatever was drawn in the process before, the bits are the same."""
    torch.manual_seed(1)
    random.seed(1)

    assert_same_run(find_trial(method).whole, find_trial(method).run(tmp_path))


def test_a_seed_changes_the_start_and_a_data_seed_the_order_alone(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """An A/A arm starts from the same parameters: its evaluation at step 0 is the same."""

    def first_loss_and_rows(**changes: int) -> tuple[float, list[list[int]]]:
        loop = trained(make_loop, make_spec(num_steps=3, **changes))
        records = read_records(loop.folder / RECORDS)
        rows = [r["rows"] for r in records if r["kind"] == "step"]
        return records[0]["nats_per_token"], rows

    base = first_loss_and_rows()
    other_order, other_start = first_loss_and_rows(data_seed=1), first_loss_and_rows(seed=1)

    assert other_order[0] == base[0]
    assert other_order[1] != base[1]
    assert other_start[0] != base[0]
    assert other_start[1] == base[1]
