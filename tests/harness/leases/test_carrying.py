"""Plans of workers that wait for nobody: each carried out by one, also where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.api import Mixer
from harness.corpus import TokenStore
from harness.domains import uniform
from harness.leases import TakenError, disk_leases
from harness.plans import last_failure, recall_failure
from harness.queued import RunFailedError
from harness.runner import Runner
from tests import tiny
from tests.tiny import MakeSpec

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View


@dataclass(frozen=True)
class FailsOnce(Mixer):
    """Fails unless a file is there."""

    mended: str

    def propose(self, view: View, state: State) -> Tensor:
        """Return equal weights, or fail."""
        if not Path(self.mended).exists():
            raise ValueError("not mended")
        return uniform(len(view.domains))


@pytest.fixture
def runner(store: TokenStore, tmp_path: Path) -> Runner:
    """Return the runner of one worker of a grid."""
    watch = lambda _: tiny.Onlooker()  # noqa: E731
    return Runner(tmp_path, store, tiny.ONLY_AT_THE_END, watch, waits=False)


def test_a_failure_is_on_record_before_another_worker_can_have_the_plan(
    runner: Runner, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Whoever came before it leaves it; whoever knows of it tries again."""
    spec = make_spec(mixer=FailsOnce(str(tmp_path / "mended")), num_steps=2)
    with pytest.raises(RunFailedError, match="not mended"):
        runner.carry_out(spec)
    told = recall_failure(tmp_path, spec)
    assert told is not None
    assert told["reason"] == "ValueError: not mended"
    (tmp_path / "mended").touch()

    with pytest.raises(TakenError, match="has failed"):
        runner.carry_out(spec)
    carried = runner.carry_out(spec, told["token"])

    assert carried.main == spec.run_id
    assert last_failure(tmp_path, spec) is None


def test_a_plan_that_another_worker_is_at_is_left_and_one_that_is_done_is_found(
    runner: Runner, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(num_steps=2)
    with disk_leases(tmp_path).held(f"plan-{spec.run_id}"), pytest.raises(TakenError):
        runner.carry_out(spec)
    assert not list(tmp_path.glob("runs/*/records.jsonl"))
    with disk_leases(tmp_path).held(f"run-{spec.run_id}"), pytest.raises(TakenError):
        runner.carry_out(spec)
    assert not list(tmp_path.glob("runs/*/records.jsonl"))

    carried = runner.carry_out(spec)
    records = (tmp_path / "runs" / carried.main / "records.jsonl").read_bytes()

    assert runner.carry_out(spec) == carried
    assert (tmp_path / "runs" / carried.main / "records.jsonl").read_bytes() == records
