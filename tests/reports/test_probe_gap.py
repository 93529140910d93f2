"""The gap between probe set and held-out text: measured, compared, and told where it opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records import read_records
from reports import measures
from reports.build import build
from reports.cautions import cautions
from reports.load import load
from reports.probe_gap import by_seed, gaps
from tests.reports.synthetic import (
    EFFECTS,
    TARGET,
    averaged,
    borrow,
    run_id_of,
    wandered,
    write_out,
)


def fit(out: Path, arm: str, seed: int, by: float) -> None:
    """Lower a run's loss on the probe set of every domain by some nats."""
    path = out / "runs" / run_id_of("demo", arm, seed) / "records.jsonl"
    records = read_records(path)
    for record in records:
        if record["kind"] == "probe":
            record["nats_per_token"] -= by
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_gap_is_held_out_minus_probe_on_the_target(eight: Path) -> None:
    records = read_records(eight / "runs" / run_id_of("demo", "half", 3) / "records.jsonl")
    probe = [r for r in records if r["kind"] == "probe" and r["domain"] == TARGET]
    held_out = [r for r in records if r["kind"] == "eval" and r["domain"] == TARGET]
    expected = held_out[-1]["nats_per_token"] - probe[-1]["nats_per_token"]

    assert by_seed(load(eight))["half"][3] == pytest.approx(expected)
    assert {arm: len(own) for arm, own in by_seed(load(eight)).items()} == dict.fromkeys(
        ("uniform", "influence", "doremi", "half"), 8
    )


def replayed(out: Path, num_seeds: int = 6) -> Path:
    """Write an ablation in which `half` takes over influence's weights, and `again` walks."""
    write_out(out, num_seeds=num_seeds, effects={**EFFECTS, "again": 0.0})
    borrow(out, "half", "influence", averaged)
    borrow(out, "again", "influence", wandered)
    return out


def test_without_fitting_no_arm_is_named(tmp_path: Path) -> None:
    evidence = load(replayed(tmp_path))
    found = {gap.arm: gap for gap in gaps(evidence)}

    assert found["influence"].control == "half"
    assert found["influence"].beyond is not None
    assert found["uniform"].mean == pytest.approx(-0.05, abs=0.003)
    assert found["influence"].reading != "fits the probe set more than held-out text"
    assert [caution for caution in cautions(evidence) if caution.code == "probe"] == []


def test_an_arm_without_such_a_control_has_a_gap_and_no_reading(eight: Path) -> None:
    """Its gap moves with the weight on the target, whether it could look or not."""
    for gap in gaps(load(eight)):
        assert gap.beyond is None
        assert gap.reading == ""


def test_a_control_with_other_weights_is_none_to_read_a_gap_beside(tmp_path: Path) -> None:
    """It looked no more than a replay did, but its gap is that of another mixture."""
    write_out(tmp_path, num_seeds=6, effects={**EFFECTS, "again": 0.0})
    borrow(tmp_path, "again", "influence", wandered)
    for seed in range(6):
        fit(tmp_path, "influence", seed, 0.04)
    evidence = load(tmp_path)
    (found,) = [gap for gap in gaps(evidence) if gap.arm == "influence"]

    assert measures.looked_at(evidence) == {"again": "influence"}
    assert (found.control, found.beyond, found.reading) == ("", None, "")
    assert [caution for caution in cautions(evidence) if caution.code == "probe"] == []


def test_an_arm_that_has_fitted_the_probe_set_is_named(tmp_path: Path) -> None:
    """The other arms' gaps, and every other number, stay as they are."""
    replayed(tmp_path)
    before = measures.metrics(load(tmp_path))
    for seed in range(6):
        fit(tmp_path, "influence", seed, 0.04)

    found = {gap.arm: gap for gap in gaps(load(tmp_path))}

    assert found["influence"].beyond is not None
    without = {gap.arm: gap for gap in gaps(load(replayed(tmp_path / "without")))}
    assert without["influence"].beyond is not None
    added = found["influence"].beyond.mean - without["influence"].beyond.mean
    assert added == pytest.approx(0.04, abs=1e-6)
    assert found["influence"].reading == "fits the probe set more than held-out text"
    assert found["doremi"].reading == ""
    (caution,) = [c for c in cautions(load(tmp_path)) if c.code == "probe"]
    assert caution.text.startswith("influence gains +0.0")
    assert "beside half, which has its weights and did not look" in caution.text
    assert before.equals(measures.metrics(load(tmp_path)))
    page = build(tmp_path).html.read_text()
    assert "Whether methods fitted the probe set" in page
    assert "fits the probe set more than held-out text" in page


def test_two_targets_are_weighted(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)
    path = tmp_path / "ablations" / "demo.json"
    header = json.loads(path.read_text()) | {"targets": {"code": 0.25, "poetry": 0.75}}
    path.write_text(json.dumps(header))
    records = read_records(tmp_path / "runs" / run_id_of("demo", "uniform", 0) / "records.jsonl")
    last = [r for r in records if r["step"] == 60]
    loss = {(r["kind"], r["domain"]): r["nats_per_token"] for r in last if "domain" in r
            and "nats_per_token" in r}  # fmt: skip
    expected = sum(
        weight * (loss["eval", domain] - loss["probe", domain])
        for domain, weight in (("code", 0.25), ("poetry", 0.75))
    )

    assert by_seed(load(tmp_path))["uniform"][0] == pytest.approx(expected)


def test_runs_of_before_have_no_gap_and_a_report(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    for path in tmp_path.glob("runs/*/records.jsonl"):
        lines = [line for line in path.read_text().splitlines() if '"probe"' not in line]
        path.write_text("\n".join(lines) + "\n")

    assert gaps(load(tmp_path)) == []
    assert "Whether methods fitted" not in build(tmp_path).html.read_text()


def test_two_seeds_give_no_word(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    for seed in range(2):
        fit(tmp_path, "influence", seed, 0.5)

    assert {gap.reading for gap in gaps(load(tmp_path))} == {""}
    assert [caution for caution in cautions(load(tmp_path)) if caution.code == "probe"] == []
