"""The ledger against the closed forms of each method's cost, in forward passes of a row (F).

A training step costs 3 F a row. What a plan asks for is read from run headers, as a report does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines.aioli import Aioli
from baselines.chameleon import Chameleon
from baselines.doge import DoGE
from baselines.doremi import DoReMi
from baselines.mixing_laws import MixingLaws
from baselines.odm import ODM
from baselines.regmix import RegMix
from baselines.replay import Replay
from baselines.shearing import Shearing
from baselines.skill_it import SkillIt
from baselines.static_tuned import StaticTuned
from harness.api import Mixer
from harness.plans import Carried, recall
from harness.runner import Runner
from harness.testing import checks
from harness.testing.world import ONLY_AT_THE_END, Onlooker, world
from tests.methods import REPLAYED, TINY

ROWS, STEPS, DOMAINS = 8, 12, 3


def billed(mixer: Mixer, folder: Path, **changes: Any) -> tuple[float, float, Carried]:
    """Return the overhead in F, its seconds, and the plan as it was carried out."""
    three = world(DOMAINS)
    spec = three.spec(mixer=checks.settled(mixer, REPLAYED), **changes)
    runner = Runner(folder, three.store, ONLY_AT_THE_END, lambda spec: Onlooker())
    carried = runner.carry_out(spec)

    def costs(run_id: str) -> Any:
        return json.loads((folder / "runs" / run_id / "run.json").read_text())["costs"]

    main = costs(carried.main)
    forward = main["train"]["flops"] / (3 * ROWS * spec.num_steps)
    others = [costs(run_id) for run_id, _ in carried.auxiliary]
    total = {
        unit: main["mixer"][unit]
        + sum(cost[account][unit] for cost in others for account in ("train", "mixer"))
        for unit in ("flops", "seconds")
    }
    return total["flops"] / forward, total["seconds"], carried


def probe_rows(per_domain: int) -> int:
    """Return how many rows the fixed probe set of all four domains has."""
    store = world(DOMAINS).store
    sizes = [(len(store.stream(domain, "probe")) - 1) // 32 for domain in store.domains]
    return sum(min(per_domain, size) for size in sizes)


def run_of(steps: int) -> float:
    """Return the training of a run, in F."""
    return 3.0 * ROWS * steps


LOOKED_AT = 4  # rows per domain that a run is measured on: as many as it is evaluated on


@pytest.mark.parametrize(
    "name", ["static", "temperature", "unimax", "odm", "ado", "target_only", "half_on_target"]
)
def test_what_reads_training_losses_or_nothing_costs_no_operations(
    name: str, tmp_path: Path
) -> None:
    """ADO's fits are seconds of CPU."""
    flops, seconds, carried = billed(TINY[name], tmp_path)

    assert flops == 0
    assert carried.auxiliary == ()
    assert seconds > 0


@pytest.mark.parametrize(
    ("mixer", "runs"),
    [(DoReMi(), 7 / 3), (DoReMi(rounds=2), 14 / 3), (DoReMi(proxy_steps=6), 7 / 6)],
    ids=["once", "two rounds", "half as long"],
)
@pytest.mark.parametrize("micro_rows", [None, 4])
def test_doremi_is_two_runs_and_a_third(
    mixer: DoReMi, runs: float, micro_rows: int | None, tmp_path: Path
) -> None:
    """3.33 runs in all at one micro-batch; with more, the losses of each proxy batch come first."""
    batch = replace(world(DOMAINS).spec().batch, micro_rows=micro_rows)
    flops, _, _ = billed(mixer, tmp_path, batch=batch)

    gathering = runs / 7 if micro_rows else 0.0  # one more F of the proxy's rows
    assert flops / run_of(STEPS) == pytest.approx(runs + gathering, rel=0.01)


def test_doge_is_a_run_and_a_gradient_of_each_row_and_probe(tmp_path: Path) -> None:
    """The target is two domains: 2 probe rows of each, at each step."""
    flops, _, _ = billed(DoGE(probe_rows=2), tmp_path)

    assert flops == pytest.approx(2 * run_of(STEPS) + 3 * 2 * 2 * STEPS, rel=0.01)


def test_doge_online_saves_the_run(tmp_path: Path) -> None:
    """What is left is the gradients."""
    flops, _, carried = billed(DoGE(form="online", probe_rows=2), tmp_path)

    assert carried.auxiliary == ()
    assert flops == pytest.approx(run_of(STEPS) + 3 * 2 * 2 * STEPS, rel=0.01)


def test_skill_it_is_k_short_runs_one_step_and_looks(tmp_path: Path) -> None:
    """Four looks at the probe set at four places, and three rounds of a row of each target."""
    flops, _, carried = billed(SkillIt(rounds=4, probe_rows=1, proxy_steps=3), tmp_path)

    runs = DOMAINS * run_of(3) + run_of(1) + (DOMAINS + 1) * probe_rows(LOOKED_AT)
    assert len(carried.auxiliary) == DOMAINS + 1
    assert flops == pytest.approx(runs + 3 * 2, rel=0.01)


def test_aioli_is_looks_alone(tmp_path: Path) -> None:
    """K lp_rounds + 1 looks at two rows of three domains."""
    mixer = Aioli(every=12, lp_rounds=1, lp_steps=2, one_hot=0.75, probe_rows=2)
    flops, _, carried = billed(mixer, tmp_path)

    assert carried.auxiliary == ()
    assert flops == pytest.approx((DOMAINS + 1) * 2 * DOMAINS, rel=0.01)


def test_shearing_is_a_reference_and_looks(tmp_path: Path) -> None:
    """Updates before steps 3, 6 and 9."""
    flops, _, _ = billed(Shearing(every=3, probe_rows=2), tmp_path)

    # the reference is measured on the rows that the main run looks at
    assert flops == pytest.approx(run_of(STEPS) + probe_rows(2) + 3 * 2 * DOMAINS, rel=0.01)


@pytest.mark.parametrize(
    "mixer",
    [
        RegMix(mixtures=4, simulated=100, top=5, regressor="linear", proxy_steps=2),
        MixingLaws(mixtures=4, starts=2, proxy_steps=2),
    ],
    ids=lambda mixer: type(mixer).__name__,
)
def test_swarms_are_their_runs_and_a_look_at_each(mixer: Mixer, tmp_path: Path) -> None:
    """Four proxies of two steps."""
    flops, _, carried = billed(mixer, tmp_path)

    assert len(carried.auxiliary) == 4
    assert flops == pytest.approx(4 * (run_of(2) + probe_rows(LOOKED_AT)), rel=0.01)


def test_chameleon_is_a_proxy_and_a_forward_without_the_vocabulary(tmp_path: Path) -> None:
    """Between nothing and F for each of 12 rows."""
    flops, _, _ = billed(Chameleon(rows=4), tmp_path)

    assert run_of(STEPS) < flops < run_of(STEPS) + 4 * DOMAINS


def test_a_tuned_static_mixture_is_its_trials(tmp_path: Path) -> None:
    """Six of two steps, each evaluated on the tuning set, the winner trained once more."""
    flops, _, carried = billed(StaticTuned(trials=6, proxy_steps=2), tmp_path)

    tuning = LOOKED_AT * 4  # of all four domains
    assert [role for _, role in carried.auxiliary] == [f"trial {i}" for i in range(1, 7)]
    assert flops == pytest.approx(6 * (run_of(2) + tuning), rel=0.01)


def test_a_control_shows_the_arm_that_it_replays_and_is_not_billed_for_it(tmp_path: Path) -> None:
    """The arm's runs are named; overhead is none."""
    flops, _, carried = billed(Replay(of="dynamic"), tmp_path)
    _, _, dynamic = billed(ODM(warmup=0.0), tmp_path)

    assert flops == 0
    assert carried.auxiliary == ()
    assert carried.shown == (dynamic.main,)
    assert carried.main != dynamic.main


def test_what_a_plan_computes_itself_is_timed(tmp_path: Path) -> None:
    """Fits and predictions, without the runs; found in the cache or not."""
    mixer = MixingLaws(mixtures=4, starts=40, proxy_steps=2)
    _, _, first = billed(mixer, tmp_path)
    _, _, again = billed(mixer, tmp_path)

    # forty fits of three domains take longer than the arithmetic around them, both times
    assert min(first.seconds, again.seconds) > 0.01
    assert first.auxiliary == again.auxiliary
    assert recall(tmp_path, world(DOMAINS).spec(mixer=mixer)) == again
