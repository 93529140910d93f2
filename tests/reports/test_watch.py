"""Following a running ablation: a report for everything new, none for nothing, and an end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import SpecError
from reports import watch as watching
from reports.watch import watch
from tests.reports.synthetic import edit, run_id_of, write_out


def test_it_writes_when_something_is_new_and_ends_with_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = {("influence", 1): ("interrupted", None)}
    out = write_out(tmp_path, num_seeds=2, broken=pending)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:  # two looks have found nothing new
            write_out(tmp_path, num_seeds=2)

    monkeypatch.setattr(watching.time, "sleep", sleep)

    lines = list(watch(out, "demo", 7.0))

    assert looks == [7.0, 7.0, 7.0]
    assert [line.split(" ", 1)[1].split(":")[0] for line in lines] == [
        "7 of 8 runs finished",
        "8 of 8 runs finished",
    ]
    assert (out / "report/demo/report.html").exists()


def test_it_waits_for_the_baseline_at_equal_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These runs come after all others."""
    path = write_out(tmp_path, num_seeds=2, longer=-0.03) / "ablations" / "demo.json"
    whole = path.read_text()
    header = json.loads(whole)
    for label in ("influence", "doremi"):
        del header["arms"][label]["runs"][1]["equal_compute"]
    path.write_text(json.dumps(header))
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            path.write_text(whole)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    lines = list(watch(tmp_path, None, 1.0))

    assert (len(looks), len(lines)) == (2, 2)


def test_new_records_of_a_run_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_out(tmp_path, num_seeds=1, broken={("influence", 0): ("running", None)})
    path = out / "runs" / run_id_of("demo", "influence", 0) / "records.jsonl"
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            line = next(x for x in path.read_text().splitlines() if '"kind": "step"' in x)
            path.write_text(path.read_text() + json.dumps(json.loads(line) | {"step": 31}) + "\n")
        if len(looks) == 2:
            edit(path.with_name("run.json"), status="failed", reason="stopped")

    monkeypatch.setattr(watching.time, "sleep", sleep)

    assert len(list(watch(out, None, 1.0))) == 3


def test_a_folder_without_an_ablation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no ablation"):
        list(watch(tmp_path, None, 1.0))
