"""Reading folders in every state that a run can be left in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.records import read_records
from reports import measures
from reports.equal_compute import at_equal_compute
from reports.load import LONGER, ablations, load
from reports.provenance import run_ids
from tests.reports.synthetic import TRAINED, edit, run_id_of, write_out


def status_of(out: Path, arm: str, seed: int, role: str = "main") -> tuple[str, str | None]:
    runs = load(out).runs.set_index(["arm", "seed", "role"])
    row = runs.loc[(arm, seed, role)]
    return row["status"], row["reason"]


def test_every_run_is_listed_and_every_record_is_read(three: Path) -> None:
    evidence = load(three)

    assert len(evidence.runs) == 4 * 3 + 2 * 3  # doremi's reference and proxy
    assert set(evidence.runs["role"]) == {"main", "reference", "proxy"}
    assert len(evidence.steps) == 60 * 12 + 30 * 6
    assert len(evidence.weights) == len(evidence.steps) * len(TRAINED)
    assert len(evidence.evals) == 12 * 7 * 6
    assert set(evidence.notes["name"]) == {"fidelity", "rebalance"}


@pytest.mark.parametrize("word", ["main", LONGER])
def test_what_a_run_counts_as_does_not_hang_on_what_its_plan_calls_it(
    tmp_path: Path, three: Path, word: str
) -> None:
    """An auxiliary run is billed and needs no evaluation, whatever its role."""
    path = write_out(tmp_path, num_seeds=3) / "ablations" / "demo.json"
    path.write_text(path.read_text().replace('"role": "proxy"', f'"role": "{word}"'))
    named, usual = load(tmp_path), load(three)

    assert set(named.runs["role"]) == {"main", "reference", word}
    assert named.runs["kind"].value_counts().to_dict() == {"main": 12, "auxiliary": 6}
    assert set(named.runs["status"]) == {"finished"}
    pd.testing.assert_frame_equal(measures.costs(named), measures.costs(usual))
    assert len(measures.main_runs(named)) == 12
    assert not at_equal_compute(named)["doremi"].how
    ids = dict(run_ids(named))["doremi"]
    assert [[role for role, _ in runs] for _, runs in ids] == [["", "reference", word]] * 3


def test_a_domain_that_was_not_in_the_batch_has_no_training_loss(three: Path) -> None:
    weights = load(three).weights

    assert (weights["loss"].isna() == (weights["rows"] == 0)).all()


def test_weights_are_those_of_the_records(three: Path) -> None:
    run_id = run_id_of("demo", "influence", 1)
    records = read_records(three / "runs" / run_id / "records.jsonl")
    step = next(r for r in records if r["kind"] == "step" and r["step"] == 37)
    weights = load(three).weights
    rows = weights[(weights["run_id"] == run_id) & (weights["step"] == 37)]

    assert rows["domain"].tolist() == TRAINED
    assert rows["weight"].tolist() == step["weights"]
    assert rows["rows"].tolist() == step["rows"]


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    whole = load(write_out(tmp_path, num_seeds=1)).steps
    for path in tmp_path.glob("runs/*/records.jsonl"):
        path.write_bytes(path.read_bytes() + b'{"kind":"step","step":61,"lo')

    assert load(tmp_path).steps.equals(whole)


def test_a_torn_line_in_the_middle_takes_that_run_out_and_no_other(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "runs" / run_id_of("demo", "half", 1) / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:20], *lines[5:]]))

    status, reason = status_of(tmp_path, "half", 1)

    assert status == "damaged"
    assert reason is not None
    assert "line 5" in reason
    assert status_of(tmp_path, "half", 0) == ("finished", None)


def test_a_step_written_twice_by_a_resumed_run_counts_once(tmp_path: Path) -> None:
    whole = load(write_out(tmp_path, num_seeds=1)).steps
    for path in tmp_path.glob("runs/*/records.jsonl"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:40], *lines[20:]]) + "\n")

    assert load(tmp_path).steps.equals(whole)


def test_the_state_of_a_run_is_what_its_own_header_says(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2, broken={("half", 1): ("running", None)})
    edit(tmp_path / "runs" / run_id_of("demo", "half", 0) / "run.json", status="failed", reason="x")

    assert status_of(tmp_path, "half", 0) == ("failed", "x")
    assert status_of(tmp_path, "half", 1) == ("running", None)


def test_runs_without_files_are_missing_pending_or_failed_as_the_grid_knows(tmp_path: Path) -> None:
    broken = {("half", 0): ("pending", None), ("half", 1): ("failed", "no memory")}
    write_out(tmp_path, num_seeds=3, broken=broken)
    for arm, seed in (("half", 1), ("half", 2), ("doremi-proxy", 0)):
        (tmp_path / "runs" / run_id_of("demo", arm, seed) / "run.json").unlink()

    assert status_of(tmp_path, "half", 0)[0] == "pending"
    assert status_of(tmp_path, "half", 1) == ("failed", "no memory")
    assert status_of(tmp_path, "half", 2) == ("missing", "its run.json is not there")
    assert status_of(tmp_path, "doremi", 0, "proxy")[0] == "missing"


@pytest.mark.parametrize(
    ("bits", "expected"), [(float("nan"), "not finite"), (None, "no held-out evaluation")]
)
def test_a_finished_run_without_a_usable_final_evaluation_is_left_out(
    tmp_path: Path, bits: float | None, expected: str
) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "runs" / run_id_of("demo", "half", 1) / "records.jsonl"
    records = [r for r in read_records(path) if r["kind"] in ("step", "eval")]
    last = records.pop() if bits is None else records[-1] | {"bits_per_byte": bits}
    kept = records if bits is None else [*records[:-1], last]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    status, reason = status_of(tmp_path, "half", 1)

    assert status == "damaged"
    assert reason is not None
    assert expected in reason
    assert 1 not in measures.by_seed(load(tmp_path), "target")["half"]


def test_the_most_recently_updated_ablation_is_the_default(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1, name="old", updated="2026-11-01T00:00:00Z")
    write_out(tmp_path, num_seeds=1, name="new", updated="2026-11-03T00:00:00Z")

    assert ablations(tmp_path) == ["new", "old"]
    assert load(tmp_path).name == "new"
    assert load(tmp_path, "old").others == ("new",)


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, three: Path) -> None:
    with pytest.raises(ValueError, match="holds no ablation"):
        load(tmp_path)
    with pytest.raises(ValueError, match="choose one of demo"):
        load(three, "dmeo")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)
    edit(tmp_path / "ablations" / "demo.json", schema=2)

    with pytest.raises(ValueError, match="schema 2"):
        load(tmp_path)


def test_reports_import_no_torch() -> None:
    code = "import sys, reports.build; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
