"""Who pays: sections nest without overlap, and counted operations are the real ones."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness import cost
from harness.cost import ACCOUNTS, Meter
from harness.model import RowFlops, build_model, count_row_flops, token_losses
from harness.spec import Model
from harness.view import RunView
from tests.tiny import SHAPE, MakeLoop, MakeSpec, MakeView

MODELS = {
    "gpt2": Model(config=SHAPE),
    "gpt2, wide": Model(config={"n_layer": 3, "n_embd": 96, "n_head": 3}),
    "llama": Model(architecture="llama"),
    "llama, grouped queries": Model(
        architecture="llama",
        config={"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1},
    ),
}
VOCABULARY, TOKENS = 512, 32


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in place of the meter's."""
    made = Clock()
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def seconds(meter: Meter) -> dict[str, float]:
    """Return the seconds of all accounts."""
    return {account: meter.accounts[account].seconds for account in ACCOUNTS}


def test_a_nested_section_stops_the_one_around_it(clock: Clock) -> None:
    """Train 1 + 2 + 4 seconds, and within it a mixer's 8 + 16 and an evaluation's 32."""
    meter = Meter()
    with meter.section("train"):
        clock.now += 1
        with meter.section("mixer"):
            clock.now += 8
            with meter.section("eval"):
                clock.now += 32
            clock.now += 16
        clock.now += 2
        with meter.section("train"):
            clock.now += 4
    clock.now += 64  # outside of all sections: nobody's

    assert seconds(meter) == {"train": 7.0, "mixer": 24.0, "eval": 32.0, "save": 0.0}


def test_a_section_that_fails_is_charged_and_closed(clock: Clock) -> None:
    """An exception inside of a hook does not let the method's clock run on."""
    meter = Meter()

    def fail() -> None:
        with meter.section("mixer", synchronize=True):
            clock.now += 2
            raise KeyError

    with meter.section("train"):
        with pytest.raises(KeyError):
            fail()
        clock.now += 3

    assert seconds(meter) == {"train": 3.0, "mixer": 2.0, "eval": 0.0, "save": 0.0}


def test_a_restored_meter_goes_on(clock: Clock) -> None:
    """Costs of an interrupted run are kept, and new ones are added."""
    before = Meter()
    with before.section("eval"):
        clock.now += 5
    before.charge("mixer", 10.0, 3)
    saved = before.to_json()

    meter = Meter()
    meter.restore(saved)
    with meter.section("eval"):
        clock.now += 2
    meter.charge("mixer", 1.0, 4)

    assert meter.accounts["eval"].seconds == 7.0
    assert (meter.accounts["mixer"].flops, meter.accounts["mixer"].tokens) == (11.0, 7)
    assert saved["mixer"] == {"seconds": 0.0, "flops": 10.0, "tokens": 3, "peak_bytes": 0}


def test_the_accounts_of_a_run_add_up_to_its_wall_time(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """What no account has is under 5 % of the loop, and never negative."""
    loop = make_loop(make_spec(num_steps=40))
    started = time.perf_counter()
    loop.run()
    wall = time.perf_counter() - started

    charged = seconds(loop.meter)
    assert 0.95 * wall <= sum(charged.values()) <= wall
    assert all(value > 0 for value in charged.values())


def test_memory_is_read_where_work_is_rare_and_large(
    make_loop: MakeLoop, make_spec: MakeSpec
) -> None:
    """A finished run knows the peak of training and of evaluation: this process, some 100 MB."""
    loop = make_loop(make_spec(num_steps=4))
    loop.run()

    for account in ("train", "eval"):
        assert 10**7 < loop.meter.accounts[account].peak_bytes < 10**11


def flops_of(work: Any) -> tuple[float, Any]:
    """Return the operations that torch counts while it works, and the work's result."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return float(counter.get_total_flops()), result


@pytest.mark.parametrize("name", MODELS)
def test_counted_operations_are_those_of_real_passes(make_view: MakeView, name: str) -> None:
    """Forward and backward of real rows, attention written out, within 5 %."""
    spec, batch = MODELS[name], make_view().candidates(1)
    model = build_model(spec, VOCABULARY, TOKENS, seed=1, attention="eager")

    forward, losses = flops_of(lambda: token_losses(model, batch))
    backward, _ = flops_of(losses.mean().backward)
    counted = count_row_flops(spec, VOCABULARY, TOKENS)

    rows = len(batch.rows)
    assert counted.forward * rows == pytest.approx(forward, rel=0.05)
    assert counted.backward * rows == pytest.approx(backward, rel=0.05)


def test_counting_computes_nothing_and_disturbs_nothing() -> None:
    """A model of a billion parameters is counted at once, and the global generator stays."""
    before, started = torch.get_rng_state(), time.process_time()
    flops = count_row_flops(Model(size="1b"), 32_000, 1024)

    # 2 per parameter and token forward, twice that backward, and attention on top
    parameters = 12 * 16 * 2048**2 + 32_000 * 2048
    assert 1.0 < flops.forward / (2 * parameters * 1024) < 1.2
    assert flops.backward == pytest.approx(2 * flops.forward, rel=0.01)
    assert torch.equal(torch.get_rng_state(), before)
    assert time.process_time() - started < 5


def written_out(view: RunView, spec: Model) -> nn.Module:
    """Give a view a model whose attention torch can count, and return it."""
    view.model = build_model(spec, VOCABULARY, TOKENS, seed=0, attention="eager")
    return view.model


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("service", ["losses", "losses along", "gradient"])
def test_a_service_bills_what_it_computes(
    make_view: MakeView, make_spec: MakeSpec, name: str, service: str
) -> None:
    """Within 5 % of what torch counts while the service works."""
    view = make_view(make_spec(model=MODELS[name]))
    model, batch = written_out(view, MODELS[name]), view.candidates(4)
    along = {key: torch.ones_like(parameter) for key, parameter in model.named_parameters()}
    work = {
        "losses": lambda: view.token_losses(batch),
        "losses along": lambda: view.token_losses(batch, along=along, eps=1e-3),
        "gradient": lambda: view.gradient(batch),
    }

    computed, _ = flops_of(work[service])

    assert view.meter.accounts["mixer"].flops == pytest.approx(computed, rel=0.05)
    assert view.meter.accounts["mixer"].tokens == batch.targets.numel()


def test_training_is_billed_by_rows(make_loop: MakeLoop, make_spec: MakeSpec) -> None:
    """Steps x rows x one row's forward and backward, and nothing for a method without services."""
    loop = make_loop(make_spec(num_steps=5))
    loop.run()
    accounts, row = loop.meter.accounts, loop.view.row_flops

    assert accounts["train"].flops == pytest.approx(5 * 8 * (row.forward + row.backward))
    assert accounts["train"].tokens == 5 * 8 * 32
    assert (accounts["mixer"].flops, accounts["mixer"].tokens) == (0.0, 0)
    # evaluations at steps 0, 4 and 5, on 4 rows of 4 domains, and of the probe set at the end
    assert accounts["eval"].flops == pytest.approx(4 * 16 * row.forward)
    assert accounts["eval"].tokens == 4 * 16 * 32
    assert isinstance(row, RowFlops)
