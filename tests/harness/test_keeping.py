"""Checkpoints that are kept: the best by tuning loss, and one every so often, killed or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import checkpoint
from harness.keeping import BEST, step_file
from harness.records import CHECKPOINT, best_step, read_records, tuning_losses
from harness.spec import Checkpoint, Evaluation
from harness.testing.world import World, assemble_loop, world
from tests import tiny

KEEPING = Checkpoint(minutes=None, steps=3, keep_best=True, keep_every=4)


def spec_of(place: World) -> Any:
    """Return a run of 12 steps that looks at the tuning set every second one."""
    looks = Evaluation(every=2, rows=4, splits=("tuning",))
    spec = place.spec(evaluation=looks)
    # a rate so high that the last step is not the best one
    return replace(spec, optimizer=replace(spec.optimizer, learning_rate=0.3, schedule="constant"))


def test_the_best_is_that_of_lowest_loss_over_all_trained_tokens() -> None:
    """Domains that are not trained on have no say, and large ones more than small ones."""
    one = {"kind": "eval", "split": "tuning", "step": 0}
    rows = [
        {**one, "domain": "a", "nats_per_token": 4.0, "num_tokens": 10},
        {**one, "domain": "b", "nats_per_token": 1.0, "num_tokens": 30},
        {**one, "domain": "other", "nats_per_token": 9.0, "num_tokens": 30},
        {**one, "domain": "a", "nats_per_token": 2.0, "num_tokens": 10, "split": "heldout"},
        {**one, "domain": "a", "nats_per_token": 1.75, "num_tokens": 10, "step": 5},
    ]

    assert tuning_losses(rows, ("a", "b")) == {0: 1.75, 5: 1.75}
    assert best_step({0: 1.75, 5: 1.75, 9: 2.0}) == 0
    assert best_step({}) is None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody stopped."""
    place, folder = world(2), tmp_path_factory.mktemp("whole")
    assemble_loop(spec_of(place), place.store, folder, every=KEEPING).run()
    return folder


def test_what_is_kept_is_the_run_at_that_step(undisturbed: Path) -> None:
    losses = tuning_losses(read_records(undisturbed / "records.jsonl"), world(2).store.trained)
    best = checkpoint.load(undisturbed / BEST)
    assert best is not None

    assert best["step"] == best_step(losses) != 12  # or the test would show nothing
    kept = sorted(path.name for path in undisturbed.glob("step-*.pt"))
    assert kept == [step_file(4), step_file(8), step_file(12)]
    last, twelfth = (checkpoint.load(undisturbed / name) for name in (CHECKPOINT, step_file(12)))
    assert last is not None
    assert twelfth is not None
    for name, value in last["model"].items():
        assert torch.equal(value, twelfth["model"][name])


@pytest.mark.parametrize("killed_after", [5, 7, 11])
def test_a_run_that_was_killed_keeps_the_same(
    killed_after: int, undisturbed: Path, tmp_path: Path
) -> None:
    place = world(2)
    watch = tiny.Onlooker(kill_after=killed_after)
    loop = assemble_loop(spec_of(place), place.store, tmp_path, watch, every=KEEPING)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assemble_loop(spec_of(place), place.store, tmp_path, every=KEEPING).run()

    for name in (BEST, step_file(4), step_file(8)):
        one, other = checkpoint.load(undisturbed / name), checkpoint.load(tmp_path / name)
        assert one is not None
        assert other is not None
        assert one["step"] == other["step"]
        for key, value in one["model"].items():
            assert torch.equal(value, other["model"][key])


def test_what_is_kept_changes_no_run() -> None:
    """It is no part of the run's identity."""
    assert not {"keep_best", "keep_every"} & set(str(spec_of(world(2)).canonical))
