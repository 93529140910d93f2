"""What a sweep hears of a trial: rows of one run, and where all of its runs are mirrored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.trackers import Mirror
from sweeps.following import OBJECTIVE, Follower, Rows, Sink
from tests.tracked_run import HEADER, RUN_ID, Listener, evaluation, note, training, write_run

WEIGHTS = {"code": 0.25, "law": 0.75}
MAIN: Any = SimpleNamespace(label="mine", evaluation=object())
PROXY: Any = SimpleNamespace(label="proxy", evaluation=None)


def rows_of(records: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Return the rows that come of some records, by step."""
    found: dict[int, dict[str, float]] = {}
    rows = Rows(WEIGHTS, found.__setitem__)
    rows.begin(HEADER)
    for record in records:
        rows.hear(record)
    rows.flush()
    return found


def tuning(step: int) -> list[dict[str, Any]]:
    return [evaluation(step, domain, "tuning") for domain in HEADER["probe_domains"]]


def test_a_row_has_weights_losses_and_the_objective_over_tokens() -> None:
    records = [*tuning(0), *(training(s) for s in range(1, 5)), *tuning(4), note(4), training(5)]
    found = rows_of(records)

    assert list(found) == [0, 4]
    assert OBJECTIVE in found[0]
    assert found[4]["tokens"] == 256
    assert (found[4]["weights/code"], found[4]["weights/law"]) == (0.25, 0.75)
    assert found[4]["tuning/nats_per_token/bible"] == 4.6
    assert found[4][OBJECTIVE] == 4.6
    assert not any(name.startswith(("train", "notes")) for row in found.values() for name in row)


def test_weights_have_rows_between_evaluations_too() -> None:
    found = rows_of([training(step) for step in range(1, 31)])

    assert list(found) == [10, 20, 30]
    assert all(OBJECTIVE not in row for row in found.values())


def test_every_run_is_mirrored_in_one_group_and_one_alone_makes_rows(tmp_path: Path) -> None:
    listener, found = Listener(), dict[int, dict[str, float]]()
    rows = Rows(WEIGHTS, found.__setitem__)
    follower = Follower(rows, Mirror({"one": listener}), "group", "mine", first=1)
    for spec, seed in ((PROXY, 1), (MAIN, 2), (MAIN, 1)):
        watch = follower(spec, seed)
        watch.begin(HEADER)
        for record in tuning(0):
            watch.record(record)
        assert not watch.stop()
        watch.end(HEADER)
        assert bool(found) == ((spec, seed) == (MAIN, 1))

    starts = [call[2:] for call in listener.calls if call[0] == "start"]
    assert starts == [("group", "auxiliary"), ("group", "mine"), ("group", "mine")]
    follower(MAIN, 1).found(write_run(tmp_path))
    assert [call for call in listener.calls if call[0] == "start"][3:] == [
        ("start", RUN_ID, "group", "mine")
    ]


def test_a_row_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    sink = Sink(Mirror({}), tmp_path / "none" / "rows", told.append)

    sink(4, {OBJECTIVE: 5.0})
    assert told == ["step 4: tuning loss 5.0000"]
