"""The claims of the contract, each as a function that raises AssertionError where it does not hold.

They take a mixer and a world; `harness.testing.mixers` makes tests of them. A plan's runs are each
checked with the mixer that the plan gave them, so a proxy is held to what a main run is held to.
"""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from harness.api import Mixer
from harness.binding import bound
from harness.loop import InterruptedRunError, Loop
from harness.records import RECORDS, read_records
from harness.runner import Runner, RunResult, open_finished
from harness.spec import RunSpec
from harness.testing.world import ONLY_AT_THE_END, Onlooker, World, assemble_loop
from harness.testing.wrappers import Guarded, Reordered, Told, told

SURPRISES = ("constant losses", "extreme losses", "zero losses", "one domain a batch", "zero prior")
STOPS = (0, 1, 5, 7, 11)
UNDER_TEST = "under test"


@dataclass(frozen=True)
class Carried:
    """A plan that was carried out: its folder, and every run that it asked for, in order."""

    folder: Path
    specs: tuple[RunSpec, ...]
    main: RunResult


def settled(mixer: Mixer, arms: Mapping[str, Mixer]) -> Mixer:
    """Return the mixer bound to the arms that it may name."""
    return bound({**arms, UNDER_TEST: mixer})[UNDER_TEST]


def carry_out(
    world: World,
    mixer: Mixer,
    folder: Path,
    wrap: Callable[[Mixer], Mixer] = lambda mixer: mixer,
    tell: Callable[[RunResult], RunResult] = lambda result: result,
    **changes: Any,
) -> Carried:
    """Carry out the mixer's plan with each run's mixer wrapped; other arms' runs are left plain."""
    spec = world.spec(**changes)
    runner = runner_in(folder, world)
    others = [runner.carry_out(replace(spec, mixer=other)) for other in mixer.others()]
    known = {i for one in others for i in (one.main, *(i for i, _ in one.auxiliary), *one.shown)}
    asked: dict[str, RunSpec] = {}

    def run(wanted: RunSpec) -> RunResult:
        if wanted.run_id in known:
            return runner.ensure(wanted)
        wrapped = replace(wanted, mixer=wrap(wanted.mixer))
        asked[wrapped.run_id] = wrapped
        return tell(runner.ensure(wrapped))

    main = mixer.plan(spec, run)
    return Carried(folder, tuple(asked.values()), main)


def runner_in(folder: Path, world: World) -> Runner:
    """Return a runner that nobody watches."""
    return Runner(folder, world.store, ONLY_AT_THE_END, lambda spec: Onlooker())


def distinct(carried: Carried) -> list[RunSpec]:
    """Return one run for each class and role in the plan: its proxies are alike."""
    kinds = {(type(spec.mixer), spec.evaluation is None): spec for spec in carried.specs}
    return list(kinds.values())


def runs_as_an_arm(world: World, mixer: Mixer, folder: Path) -> None:
    """Its settings fit, and the runner accepts its plan: one evaluated run, nothing held out."""
    spec = world.spec(mixer=mixer)
    mixer.check(world.store.trained, spec.targets)
    runner_in(folder, world).carry_out(spec)


def loop_of(carried: Carried, spec: RunSpec, world: World, folder: Path, watch: Onlooker) -> Loop:
    """Return a run of the plan, to be trained again in a folder of its own."""
    opened = partial(open_finished, carried.folder / "runs")
    return assemble_loop(spec, world.store, folder, watch, opened)


def keeps_the_contract(world: World, mixer: Mixer, folder: Path) -> None:
    """Every call reads the contract's services alone, changes nothing, and is billed fairly."""
    carry_out(world, mixer, folder, Guarded)


def stands(world: World, mixer: Mixer, folder: Path, surprise: str) -> None:
    """Weights stay finite and on the simplex, whatever the mixer is told: the loop checks them."""

    def tell(result: RunResult) -> RunResult:
        probes, tuning = (told(x, surprise) for x in (result.probe_losses, result.tuning_losses))
        return replace(result, probe_losses=probes, tuning_losses=tuning)

    carry_out(world, mixer, folder, lambda inner: Told(inner, how=surprise), tell)


def ignores_the_order_of_domains(world: World, mixer: Mixer, folder: Path) -> None:
    """With the same domains in another order the weights are the same, in that order."""
    order = (*range(1, world.num_domains), 0)
    carry_out(world, mixer, folder, lambda inner: Reordered(inner, order=order))


def resumes(carried: Carried, spec: RunSpec, world: World, folder: Path) -> None:
    """Stopped after any step and taken up again, a run ends in the same bits."""

    def anew() -> RunSpec:  # what a mixer hides outside of its state does not reach the next run
        return replace(spec, mixer=copy.deepcopy(spec.mixer))

    whole = loop_of(carried, anew(), world, folder / "whole", Onlooker())
    whole.run()
    wanted = ending(whole)
    for stop in (step for step in STOPS if step < spec.num_steps):
        place = folder / f"stopped at {stop}"
        first = loop_of(carried, anew(), world, place, Onlooker(stop_after=stop))
        if stop == 0:  # saved before the first step
            first.start()
            first.save()
            first.close()
        else:
            try:
                first.run()
            except InterruptedRunError:
                pass
            else:
                raise AssertionError(f"it did not stop after step {stop}")
        # what a class or a module remembers is another run's by now, as in another process
        loop_of(carried, anew(), world, folder / f"between {stop}", Onlooker()).run()
        again = loop_of(carried, anew(), world, place, Onlooker())
        again.run()
        for what, found in ending(again).items():
            name = type(spec.mixer).__name__
            assert found == wanted[what], f"{name}: {what} differ after a stop at step {stop}"


def ending(loop: Loop) -> dict[str, Any]:
    """Return what must not depend on how often a run was stopped."""
    records = [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in read_records(loop.folder / RECORDS)
    ]
    model = loop.view.model.state_dict()
    costs = {
        name: {unit: cost[unit] for unit in ("flops", "tokens")}
        for name, cost in loop.meter.to_json().items()
        if isinstance(cost, dict) and "flops" in cost
    }
    moments = {
        f"{number} {name}": value
        for number, saved in loop.view.optimizer.state_dict()["state"].items()
        for name, value in saved.items()
    }
    return {
        "records": records,
        "parameters": fingerprint(model),
        "moments": fingerprint(moments),
        "states": fingerprint(loop.state),
        "costs": costs,
    }


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """Return a hash of the bits of named tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def stays_small(carried: Carried, spec: RunSpec, world: World, folder: Path) -> None:
    """What a mixer remembers does not grow in the second half of a run."""
    loop = loop_of(carried, spec, world, folder, Onlooker())
    loop.start()
    sizes = []
    for _ in range(spec.num_steps):
        loop.step()
        sizes.append(sum(value.numel() for value in loop.state.values()))
    loop.close()
    half = spec.num_steps // 2
    name = type(spec.mixer).__name__
    assert sizes[-1] <= sizes[half], f"{name}: its state grows, from {sizes[half]} to {sizes[-1]}"


def agrees_elsewhere(world: World, mixer: Mixer, folder: Path, main: RunResult) -> None:
    """Another process, with other hash seeds, finds the same runs and the same weights."""
    found = _elsewhere().submit(_main_of, world, mixer, folder / "elsewhere").result(timeout=300)
    here = (main.run_id, fingerprint({"weights": main.weights}))
    name = type(mixer).__name__
    assert found == here, f"{name}: run id and weights are {here} here, {found} in another process"


def _main_of(world: World, mixer: Mixer, folder: Path) -> tuple[str, str]:
    main = carry_out(world, mixer, folder).main
    return main.run_id, fingerprint({"weights": main.weights})


@cache
def _elsewhere() -> ProcessPoolExecutor:
    """Return a process that has imported torch: one for all tests of this one."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "4711"  # of the child; ours was settled when we started
    try:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result()  # started with it
    finally:
        os.environ.pop("PYTHONHASHSEED")
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before
    return pool
