"""What is chosen: never a trial that saw fewer seeds, or costs more than it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpecError
from sweeps import findings
from sweeps.study import Row
from sweeps.tables import counted
from sweeps.trial import RUNS

from .tiny_study import STUDY, tiny_study


def row(number: int, *values: float, state: str = "complete", **facts: Any) -> Row:
    """Return a trial at both seeds whose overhead is a tenth of its training."""
    own = {"seeds": [100, 101], "train_seconds": 10.0, "overhead_seconds": 1.0, RUNS: {}, **facts}
    return Row(number, number, state, values, {"settings.every": number}, own, {})


def test_the_best_is_the_lowest_complete_trial(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    rows = [row(0, 3.0), row(1, 2.0), row(2, 1.0, state="pruned"), row(3, state="failed")]

    found = findings.best(study, rows)

    assert found is not None
    assert found.number == 1


def test_a_trial_that_was_stopped_between_seeds_is_never_the_best(tmp_path: Path) -> None:
    """The mean over its seeds may be lower because they were the easy ones."""
    study = tiny_study(tmp_path)

    found = findings.best(study, [row(0, 1.0, seeds=[101]), row(1, 2.0)])

    assert found is not None
    assert found.number == 1


def test_the_specs_own_settings_count_where_all_seeds_have_seen_them(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)

    def own(*rows: Row) -> Row | None:
        return findings.own(study, "influence", list(rows))

    stopped, whole = row(0, 1.5, seeds=[101]), row(0, 2.0)
    assert own(stopped, row(1, 1.0)) is None
    assert own(stopped, whole) is whole
    assert own(row(1, 2.0)) is None
    assert findings.own(study, "uniform", [whole]) is None  # which has none in its space


def test_a_trial_over_the_limit_is_never_the_best(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, head=STUDY + "max_overhead = 0.5\n")

    found = findings.best(study, [row(0, 1.0, overhead_seconds=6.0), row(1, 2.0)])

    assert found is not None
    assert found.number == 1
    assert findings.best(study, [row(0, 1.0, overhead_seconds=6.0)]) is None


def test_the_front_has_what_nothing_is_below_in_both(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    values = [(1.0, 9.0), (2.0, 2.0), (2.5, 2.0), (3.0, 1.0), (3.0, 3.0)]
    rows = [row(i, loss, overhead_seconds=2 * cost) for i, (loss, cost) in enumerate(values)]

    assert [one.number for one in findings.front(study, rows)] == [3, 1, 0]
    # a trial that was stopped between seeds is on no front
    stopped = row(5, 0.5, seeds=[100], overhead_seconds=1.0)
    assert [one.number for one in findings.front(study, [*rows, stopped])] == [3, 1, 0]


def test_a_slot_that_was_tried_again_counts_once(tmp_path: Path) -> None:
    tried = Row(0, 0, "failed", (), {}, {}, {})
    again = Row(3, 0, "complete", (1.0,), {}, {}, {})

    assert counted([tried, again, row(1, 2.0)])["complete"] == 2
    assert counted([tried, again])["failed"] == 0


def test_findings_are_plain_json_that_names_storage_and_command(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    (tmp_path / "out/studies").mkdir(parents=True)
    arms = {"influence": findings.of_arm(study, "influence", [row(0, 2.0)], {})}

    path = findings.write(study, tmp_path / "out", arms, "sqlite:///s.db", "steelyard study run")

    read = json.loads(path.read_text())
    assert read["arms"]["influence"]["best"] == 0
    assert read["seeds"] == [100, 101]
    assert read["command"] == "steelyard study run"
    assert read["arms"]["influence"]["space"]["settings.every"]["low"] == 2


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    told_by_hand = Row(0, 0, "complete", (1.0,), {}, {}, {})
    assert findings.best(tiny_study(tmp_path), [told_by_hand]) is None
    with pytest.raises(SpecError, match="cannot be written"):
        findings.write(tiny_study(tmp_path), tmp_path / "nowhere", {}, "", "")
