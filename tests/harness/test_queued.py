"""A host that runs ahead of its device leaves the bits of one that waits.

No GPU is needed: the loop queues its steps as it does for one, and the CPU computes at once. What
only a GPU shows, that nothing waits, is measured by tests/bench/device.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from baselines.influence import Influence
from baselines.odm import ODM
from baselines.static import Static
from harness import checkpoint
from harness.api import Batch, Mixer
from harness.cost import Meter
from harness.loop import STEPS_AHEAD, InterruptedRunError, Loop
from harness.model import _token_losses, build_model
from harness.packing import whole_rows
from harness.queued import RunFailedError
from harness.records import CHECKPOINT, RECORDS, read_records
from harness.spec import Batching, Model
from harness.transfer import Outbound, moved
from tests.tiny import MakeLoop, MakeSpec, Onlooker

MIXERS: dict[str, Mixer] = {
    "asks for nothing": Static(),
    "looks on": ODM(),
    "notes": Influence(every=4, rows=2, probe_rows=2),
}


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every loop queue its steps."""
    monkeypatch.setattr(Loop, "_is_ahead", True)


def plain(loop: Loop) -> list[dict[str, Any]]:
    """Return a loop's records without wall time."""
    records = read_records(loop.folder / RECORDS)
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def parameters(loop: Loop) -> list[torch.Tensor]:
    """Return a run's final parameters."""
    return [p.detach() for p in loop.view.model.parameters()]


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("micro_rows", [None, 4])
def test_steps_read_later_leave_the_same_run(
    make_loop: MakeLoop,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    micro_rows: int | None,
) -> None:
    """Records, in their order, and parameters are equal to the bit."""
    spec = make_spec(mixer=MIXERS[name], batch=Batching(rows=8, tokens=32, micro_rows=micro_rows))
    waiting = make_loop(spec)
    waiting.run()
    monkeypatch.setattr(Loop, "_is_ahead", True)
    queueing = make_loop(spec)
    queueing.run()

    assert plain(queueing) == plain(waiting)
    assert all(map(torch.equal, parameters(queueing), parameters(waiting)))


@pytest.mark.usefixtures("ahead")
def test_a_step_is_recorded_when_others_are_queued(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Control: the loop does run ahead, by no more than it says."""
    loop = make_loop(make_spec(evaluation=None))
    loop.start()
    for _ in range(5):
        loop.step()
    written = [r["step"] for r in read_records(loop.folder / RECORDS)]
    loop.close()

    assert written == list(range(1, 5 - STEPS_AHEAD + 1))
    assert [r["step"] for r in read_records(loop.folder / RECORDS)] == [1, 2, 3, 4, 5]


@dataclass
class Poison(Onlooker):
    """Spoils a parameter after a step's record."""

    step: int = 3
    stop_after: int | None = None
    kill_after: int | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    loop: Loop | None = None

    def record(self, record: dict[str, Any]) -> None:
        """Spoil it."""
        assert self.loop is not None
        if record["step"] == self.step:
            with torch.no_grad():
                self.loop.view.model.get_parameter("transformer.ln_f.weight").fill_(math.nan)


@pytest.mark.usefixtures("ahead")
def test_a_loss_that_is_no_number_stops_the_run_at_the_step_that_made_it(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """Step 3 is recorded when two more are queued: number 5, counted from 0, is the first bad."""
    watch = Poison()
    watch.loop = make_loop(make_spec(evaluation=None), watch=watch)

    with pytest.raises(RunFailedError, match=r"^the training loss is nan at step 5$"):
        watch.loop.run()

    assert [r["step"] for r in read_records(watch.loop.folder / RECORDS)] == [1, 2, 3, 4, 5]
    assert checkpoint.load(watch.loop.folder / CHECKPOINT) is None


@pytest.mark.usefixtures("ahead")
def test_a_gradient_that_is_no_number_is_named_though_later_steps_are_spoilt(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """The first step spoils every parameter, and is the one that is told of."""
    loop = make_loop(make_spec(evaluation=None))
    name = "transformer.h.1.ln_2.bias"
    loop.view.model.get_parameter(name).register_hook(  # type: ignore[no-untyped-call]
        lambda grad: grad * math.inf
    )

    with pytest.raises(RunFailedError, match=rf"gradient norm is \w+ at step 0, .*{name}$"):
        loop.run()

    assert read_records(loop.folder / RECORDS) == []


@pytest.mark.usefixtures("ahead")
def test_a_run_that_is_stopped_has_recorded_what_it_saved(
    make_loop: MakeLoop, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """A checkpoint knows of no more steps than the records do, and the run goes on from it."""
    spec = make_spec(mixer=MIXERS["notes"])
    whole = make_loop(spec)
    whole.run()
    with pytest.raises(InterruptedRunError):
        make_loop(spec, folder=tmp_path, watch=Onlooker(stop_after=5)).run()
    saved = checkpoint.load(tmp_path / CHECKPOINT)
    assert saved is not None
    assert saved["step"] == max(r["step"] for r in read_records(tmp_path / RECORDS))

    resumed = make_loop(spec, folder=tmp_path)
    resumed.run()

    assert plain(resumed) == plain(whole)


def test_the_wait_for_a_queued_step_is_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method's service waits for the device first: 5 s of a step, then 2 s of its own."""
    clock = {"now": 0.0, "owed": 0.0}

    def synchronize() -> None:
        clock["now"] += clock["owed"]
        clock["owed"] = 0.0

    monkeypatch.setattr("harness.cost.time.perf_counter", lambda: clock["now"])
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    meter = Meter("cuda")
    with meter.section("train"):
        clock["owed"] = 5.0
    with meter.section("mixer"):
        for _ in range(2):
            with meter.section("mixer", synchronize=True):
                clock["owed"] = 1.0

    assert (meter.accounts["train"].seconds, meter.accounts["mixer"].seconds) == (5.0, 2.0)


def test_on_a_cpu_nothing_moves(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """A batch is itself, and so is what comes back."""
    batch: Batch = make_loop(make_spec()).view.candidates(1)

    assert moved(batch, "cpu") is batch
    assert Outbound(batch.inputs).read() is batch.inputs


def test_a_model_is_not_asked_whether_rows_hold_several_sequences() -> None:
    """Inside it is answered, and afterwards transformers asks as ever."""
    from transformers import masking_utils

    ids = torch.tensor([[0, 1, 0, 1]])
    asked = masking_utils.find_packed_sequence_indices
    with whole_rows():
        assert masking_utils.find_packed_sequence_indices(ids) is None

    assert masking_utils.find_packed_sequence_indices is asked
    assert asked(ids) is not None


def test_fused_attention_needs_no_mask(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """A compiled or eager forward pass is given none: a mask would cost the fused kernel."""
    loop, seen = make_loop(make_spec()), []

    def look(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs.get("attention_mask", args[2] if len(args) > 2 else None))

    for block in loop.view.model.transformer.h:
        block.attn.register_forward_pre_hook(look, with_kwargs=True)
    loop.view.token_losses(loop.view.candidates(1))

    assert seen
    assert all(mask is None for mask in seen)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("says_export", [False, True])
def test_a_compiled_model_has_no_mask_whatever_transformers_takes_it_for(
    architecture: str, says_export: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before PyTorch 2.13 a compiled model is said to be exported, and then a mask is written."""
    from transformers import masking_utils

    monkeypatch.setattr(
        masking_utils, "is_torchdynamo_exporting", lambda: says_export, raising=False
    )
    model = build_model(Model(architecture=architecture), 64, 16, seed=0)  # type: ignore[arg-type]
    masks: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        calls = [node for node in graph.graph.nodes if "scaled_dot" in str(node.target)]
        masks.extend(node.kwargs["attn_mask"] for node in calls)
        return graph.forward

    tokens = torch.zeros(2, 16, dtype=torch.int64)
    step = torch.compile(lambda: _token_losses(model, tokens, tokens, tokens >= 0), backend=backend)
    with whole_rows():
        step()

    assert masks
    assert masks == [None] * len(masks)
    torch._dynamo.reset()
