"""TensorBoard shows the same names as every tracker, over tokens; its own reader says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.trackers import Mirror, TensorBoardTracker, cost_scalars, open_trackers, scalars
from tests.tracked_run import HEADER, RUN_ID, mirror_all, records, write_run

pytest.importorskip("tensorboard")


def read(folder: Path) -> Any:
    """Return everything in a run's folder as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def text(found: Any, tag: str) -> Any:
    """Return what was written as text."""
    (event,) = found.Tensors(tag)
    assert found.SummaryMetadata(tag).plugin_data.plugin_name == "text"
    return json.loads(event.tensor_proto.string_val[0])


def test_every_number_reads_back_over_tokens(tmp_path: Path) -> None:
    write_run(tmp_path)
    mirror_all(open_trackers(("tensorboard",), tmp_path))
    found = read(tmp_path / "tensorboard/demo/uniform-seed3")

    expected: dict[str, list[tuple[int, float]]] = {}
    for record in records():
        numbers = scalars(record, HEADER)
        tokens = int(numbers.pop("tokens"))
        for name, number in numbers.items():
            expected.setdefault(name, []).append((tokens, pytest.approx(number)))
    for name, number in cost_scalars(HEADER["costs"]).items():
        expected[name] = [(1280, pytest.approx(number))]
    tags = found.Tags()["scalars"]
    assert {t: [(e.step, e.value) for e in found.Scalars(t)] for t in tags} == expected
    assert {"weights/law", "heldout/bits_per_byte/bible", "overhead/seconds"} <= set(tags)
    assert text(found, "spec") == {"run_id": RUN_ID, **HEADER["spec"]}
    assert text(found, "status") == "finished"


def test_a_run_that_is_resumed_is_there_once(tmp_path: Path) -> None:
    """The mirror hands over all records again."""
    tracker = TensorBoardTracker(tmp_path)
    tracker.start(HEADER, "demo", "uniform")
    for record in records(7):
        tracker.log(record)
    mirror_all(Mirror({"tensorboard": tracker}))
    found = read(tmp_path / "tensorboard/demo/uniform-seed3")

    assert [event.step for event in found.Scalars("train/loss")] == [64 * s for s in range(1, 21)]


def test_auxiliary_runs_of_one_arm_have_folders_of_their_own(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    for run_id in ("a" * 16, "b" * 16):
        auxiliary: Mapping[str, Any] = {
            **HEADER,
            "run_id": run_id,
            "spec": {**HEADER["spec"], "evaluation": None},
        }
        tracker.start(auxiliary, "demo", "auxiliary")
        tracker.finish("finished", {})
    tracker.report("demo", "0" * 16, [])

    names = sorted(path.name for path in (tmp_path / "tensorboard/demo").iterdir())
    assert names == [f"auxiliary-seed3-{'a' * 16}", f"auxiliary-seed3-{'b' * 16}"]
