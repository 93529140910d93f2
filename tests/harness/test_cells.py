"""The ablation's file: whatever one process writes, what others have put there stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from harness.cells import Cells, Sheet
from harness.files import read_json
from harness.leases import open_leases
from harness.worker import Outcome, Task

SPEC: Any = None  # which no cell shows


def sheet(path: Path, arms: tuple[str, ...] = ("one",), seeds: tuple[int, ...] = (0,)) -> Sheet:
    """Return the sheet of a process that came with these arms and seeds."""
    cell: dict[str, Any] = {"status": "pending", "run_id": None, "reason": None}
    runs = [{"seed": seed, **cell} for seed in seeds]
    named = {arm: {"method": "static", "runs": [dict(run) for run in runs]} for arm in arms}
    spec = {"seeds": list(seeds), "arms": {arm: {"method": "static"} for arm in arms}}
    return Sheet(path, {"seeds": list(seeds), "spec": spec, "arms": named})


def cells(out: Path, known: dict[tuple[str, int], Outcome] | None = None, **asked: Any) -> Cells:
    """Return one process's view of the file; `known` is how cells have ended."""
    made = sheet(out / "a.json", **asked)
    own = [(arm, seed) for arm in made.content["arms"] for seed in made.content["seeds"]]
    ended = {pair: (known or {}).get(pair) for pair in own}  # of others nothing is known
    return Cells(made, open_leases(out), lambda *pair: ended[pair])


def written(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the cells of the file by arm and seed."""
    content = read_json(out / "a.json")
    return {(arm, c["seed"]): c for arm, one in content["arms"].items() for c in one["runs"]}


def finished(run_id: str) -> Outcome:
    return Outcome("finished", run_id)


def test_seeds_and_arms_that_were_added_meanwhile_stay(tmp_path: Path) -> None:
    """The first command goes on with what it came with, and writes last."""
    first = cells(tmp_path)
    first.save()
    later = cells(tmp_path, arms=("one", "two"), seeds=(0, 1))
    later.settle(Task("two", 1, SPEC), finished("b"))

    first.settle(Task("one", 0, SPEC), finished("a"))

    found = written(tmp_path)
    assert {pair: cell["run_id"] for pair, cell in found.items()} == {
        ("one", 0): "a",
        ("one", 1): None,
        ("two", 0): None,
        ("two", 1): "b",
    }
    content = read_json(tmp_path / "a.json")
    assert content["seeds"] == content["spec"]["seeds"] == [0, 1]
    assert set(content["spec"]["arms"]) == {"one", "two"}


def test_what_others_came_for_is_theirs_to_write(tmp_path: Path) -> None:
    """The first command writes often, and knows nothing of how the added cells end."""
    first = cells(tmp_path, seeds=(0, 1))
    first.save()
    later = cells(tmp_path, arms=("two", "one", "three"), seeds=(0, 1, 2))
    later.save()
    first.settle(Task("one", 0, SPEC), finished("a"))
    later.settle(Task("one", 2, SPEC), finished("c"))
    later.settle(Task("two", 0, SPEC), finished("d"))

    first.settle(Task("one", 1, SPEC), finished("b"))

    found = written(tmp_path)
    ids = {pair: cell["run_id"] for pair, cell in found.items() if cell["run_id"]}
    assert ids == {("one", 0): "a", ("one", 1): "b", ("one", 2): "c", ("two", 0): "d"}
    assert list(read_json(tmp_path / "a.json")["arms"]) == ["one", "two", "three"]


def test_an_arm_and_a_seed_that_two_have_added_make_a_pending_cell(tmp_path: Path) -> None:
    cells(tmp_path, seeds=(0, 1)).save()

    cells(tmp_path, arms=("one", "two")).save()

    assert written(tmp_path)["two", 1]["status"] == "pending"


def test_a_longer_baseline_is_kept_for_the_run_that_it_belongs_to(tmp_path: Path) -> None:
    ended = {("one", 0): finished("a")}
    before = cells(tmp_path, ended)
    before.save()
    before.settle_longer([("one", 0)], 20, finished("long"))

    cells(tmp_path, ended, seeds=(0, 1)).save()  # seeds were added
    assert written(tmp_path)["one", 0]["equal_compute"]["run_id"] == "long"

    cells(tmp_path, {("one", 0): finished("other")}).save()  # its method has changed
    assert "equal_compute" not in written(tmp_path)["one", 0]


def test_who_was_stopped_does_not_undo_a_longer_baseline_that_has_ended(tmp_path: Path) -> None:
    ended = {("one", 0): finished("a")}
    ours, theirs = cells(tmp_path, ended), cells(tmp_path, ended)
    for one in (ours, theirs):
        one.save()
    theirs.settle_longer([("one", 0)], 20, finished("long"))

    ours.settle_longer([("one", 0)], 20, Outcome("interrupted"))

    assert written(tmp_path)["one", 0]["equal_compute"]["status"] == "finished"


def test_a_database_of_leases_that_is_silent_holds_nobody_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'leases.db'}"
    told: list[str] = []
    known: dict[tuple[str, int], Outcome] = {}
    look_up = lambda *pair: known.get(pair)  # noqa: E731
    ours = Cells(sheet(tmp_path / "a.json"), open_leases(tmp_path, url), look_up, told.append)
    ours.save()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("alter table steelyard_leases rename to gone"))

    ours.settle(Task("one", 0, SPEC), finished("a"))

    assert ours.is_behind
    assert "the database does not answer" in told[0]
    assert "waiting" not in told[0]
    assert "a.json lacks what has ended" in told[0]
    assert written(tmp_path)["one", 0]["run_id"] is None
    with engine.begin() as connection:
        connection.execute(text("alter table gone rename to steelyard_leases"))
    ours.save()
    assert not ours.is_behind
    assert written(tmp_path)["one", 0]["run_id"] == "a"
