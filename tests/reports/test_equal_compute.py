"""Equal compute: by longer runs of the baseline, by the method's own curve, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports import measures, tables
from reports.along import along
from reports.arms import arms_table
from reports.build import build
from reports.equal_compute import AtEqualCompute, at_equal_compute
from reports.headline import headline
from reports.load import LONGER, load
from tests.reports.synthetic import TARGET, edit, run_id_of, write_out

CONSTANT = {"schedule": "constant", "warmup": 0.05, "decay": 0.2}
WSD = {"schedule": "wsd", "warmup": 0.05, "decay": 0.2}
STEPS, EVERY = 60, 10


def found(out: Path, arm: str) -> AtEqualCompute:
    return at_equal_compute(load(out))[arm]


def target_at(out: Path, arm: str, seed: int, step: float) -> float:
    """Read a loss off the records: exact at an evaluation, a straight line in between."""
    lines = (out / "runs" / run_id_of("demo", arm, seed) / "records.jsonl").read_text()
    records = [json.loads(line) for line in lines.splitlines()]
    own = {
        r["step"]: r["bits_per_byte"]
        for r in records
        if r["kind"] == "eval" and r["domain"] == TARGET
    }
    before = int(step // EVERY) * EVERY
    after = min(before + EVERY, STEPS)
    share = (step - before) / EVERY
    return float((1 - share) * own[before] + share * own[after])


def make_overhead(out: Path, arm: str, share: float) -> None:
    """Let an arm's auxiliary runs cost `share` of a main run in all, and its mixer nothing."""
    for path in out.glob("ablations/*.json"):
        cells = json.loads(path.read_text())["arms"][arm]["runs"]
        for cell in cells:
            main = json.loads((out / "runs" / cell["run_id"] / "run.json").read_text())
            flops = share * main["costs"]["train"]["flops"] / len(cell["auxiliary"])
            for run in cell["auxiliary"]:
                header = out / "runs" / run["run_id"] / "run.json"
                costs = json.loads(header.read_text())["costs"]
                costs["train"]["flops"] = flops
                edit(header, costs=costs)


# ---- by runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seeds; longer training would bring the baseline .03 bits per byte."""
    return write_out(tmp_path_factory.mktemp("longer"), num_seeds=8, longer=-0.03)


def test_the_longer_baseline_is_subtracted_seed_by_seed(longer: Path) -> None:
    values = measures.by_seed(load(longer), "target")
    doremi = found(longer, "doremi")

    assert doremi.how == "runs"
    assert doremi.said == "uniform trained for 120 steps"
    assert doremi.paired is not None
    for seed in range(8):
        theirs = target_at_end(longer, run_id_of("demo", "longer-60", seed))
        assert doremi.paired.differences[seed] == pytest.approx(values["doremi"][seed] - theirs)
    gain = 0.03 * (1 - math.exp(-4))
    equal_tokens = measures.judge(load(longer))["doremi"].paired
    assert equal_tokens is not None
    assert doremi.paired.mean == pytest.approx(equal_tokens.mean + gain)


def target_at_end(out: Path, run_id: str) -> float:
    lines = (out / "runs" / run_id / "records.jsonl").read_text().splitlines()
    evals = [json.loads(line) for line in lines if '"eval"' in line]
    return float([r["bits_per_byte"] for r in evals if r["domain"] == TARGET][-1])


def test_what_costs_nothing_is_compared_as_at_equal_tokens(longer: Path) -> None:
    half = found(longer, "half")

    assert (half.how, half.said) == ("same", "its overhead in FLOPs buys no step")
    assert half.paired == measures.judge(load(longer))["half"].paired


def test_longer_runs_change_no_other_number(longer: Path, tmp_path: Path) -> None:
    """They are neither a cost of the arm, nor main runs, nor rows of the results."""
    without = load(write_out(tmp_path, num_seeds=8))
    evidence = load(longer)

    pd.testing.assert_frame_equal(measures.costs(evidence), measures.costs(without))
    pd.testing.assert_frame_equal(tables.results_table(evidence), tables.results_table(without))
    same = [c for c in arms_table(without) if not c.startswith("equal_")]
    pd.testing.assert_frame_equal(arms_table(evidence)[same], arms_table(without)[same])


def test_the_run_ids_of_the_longer_baseline_are_named(longer: Path) -> None:
    ids = tables.run_ids_table(load(longer))

    assert set(ids[ids["role"] == LONGER]["arm"]) == {"doremi", "influence"}
    assert f"{run_id_of('demo', 'longer-60', 3)} (equal compute)" in build(
        longer
    ).markdown.read_text().replace("\\", "")


def without_overhead(out: Path, seed: int) -> None:
    """Let DoReMi's overhead at one seed buy no step, so that no longer run is asked for there."""
    for role in ("reference", "proxy"):
        path = out / "runs" / run_id_of("demo", f"doremi-{role}", seed) / "run.json"
        costs = json.loads(path.read_text())["costs"]
        costs["train"]["flops"] = 0.0
        edit(path, costs=costs)
    path = out / "ablations" / "demo.json"
    arms = json.loads(path.read_text())["arms"]
    del arms["doremi"]["runs"][seed]["equal_compute"]
    edit(path, arms=arms)


def lose(out: Path, seed: int, status: str) -> None:
    """Let the longer run of DoReMi's 60 steps at a seed be in another state."""
    path = out / "runs" / run_id_of("demo", "longer-60", seed) / "run.json"
    edit(path, status=status, reason="no memory" if status == "failed" else None)


def test_a_seed_that_buys_no_step_takes_the_baseline_itself(tmp_path: Path) -> None:
    """At seed 0 the overhead is gone; at the others it is as before."""
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    without_overhead(tmp_path, 0)
    values = measures.by_seed(load(tmp_path), "target")

    doremi = found(tmp_path, "doremi")

    said = "uniform trained for 120 steps, and no longer at seed 0, where the overhead buys no step"
    assert doremi.said == said
    pair = doremi.paired
    assert pair is not None
    assert pair.differences[0] == pytest.approx(values["doremi"][0] - values["uniform"][0])
    assert pair.differences[1] == pytest.approx(
        values["doremi"][1] - values["uniform"][1] + 0.03 * (1 - math.exp(-4))
    )


def test_a_longer_run_that_failed_is_left_out_and_shown(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    lose(tmp_path, 1, "failed")

    doremi = found(tmp_path, "doremi")
    problems = tables.problems_table(load(tmp_path))

    assert doremi.paired is not None
    assert set(doremi.paired.differences) == {0, 2}
    said = "uniform trained for 120 steps; without seed 1, where no such run has finished"
    assert doremi.said == said
    assert problems[["arm", "role", "reason"]].to_numpy().tolist() == [
        ["doremi", LONGER, "no memory"]
    ]


def test_runs_that_are_still_to_come_leave_the_column_empty(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    path = tmp_path / "ablations" / "demo.json"
    arms = json.loads(path.read_text())["arms"]
    for run in arms["doremi"]["runs"]:
        del run["equal_compute"]
    edit(path, arms=arms)

    assert found(tmp_path, "doremi") == AtEqualCompute(
        "", None, "no run of the baseline at its compute has finished"
    )


@pytest.mark.parametrize("status", ["failed", "running"])
def test_seeds_that_buy_no_step_alone_are_no_comparison(tmp_path: Path, status: str) -> None:
    """To compare them would leave out every seed at which the arm cost more."""
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    without_overhead(tmp_path, 0)
    for seed in (1, 2):
        lose(tmp_path, seed, status)

    doremi = found(tmp_path, "doremi")

    assert (doremi.how, doremi.paired) == ("", None)
    assert doremi.said == (
        "no run of the baseline at its compute has finished, and to compare seed 0 alone, where "
        "its overhead buys no step, would be to choose"
    )
    assert doremi.said in build(tmp_path).html.read_text()


def test_a_longer_run_counts_only_at_a_seed_that_the_arm_has(tmp_path: Path) -> None:
    """The one that has finished stands beside a run of the arm that has not."""
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    without_overhead(tmp_path, 0)
    lose(tmp_path, 1, "failed")
    edit(tmp_path / "runs" / run_id_of("demo", "doremi", 2) / "run.json", status="failed")

    doremi = found(tmp_path, "doremi")

    assert (doremi.how, doremi.paired) == ("", None)
    assert "to compare seed 0 alone" in doremi.said


def test_the_report_says_what_was_compared(longer: Path) -> None:
    paths = build(longer)
    row = pd.read_csv(paths.arms).set_index("arm").loc["doremi"]
    text = " ".join(statement.text for statement in headline(load(longer)))

    assert row["equal_how"] == "runs"
    assert "At equal compute, overhead included: influence" in text
    assert "(uniform trained for 120 steps). Descriptive: verdicts are at equal" in text
    for page in (paths.html.read_text(), paths.markdown.read_text()):
        assert "uniform trained for 120 steps" in page
        assert f"{row['equal_difference']:+.3f}".replace("-", "\N{MINUS SIGN}") in page


# ---- by the curve ----------------------------------------------------------------------------


def test_under_a_constant_rate_the_curve_is_read_at_the_tokens_left(tmp_path: Path) -> None:
    """Auxiliary runs for a quarter of the budget leave three quarters of the steps."""
    write_out(tmp_path, num_seeds=4, optimizer=CONSTANT)
    make_overhead(tmp_path, "doremi", 0.25)
    doremi = found(tmp_path, "doremi")

    assert doremi.how == "curve"
    assert doremi.said == "its own curve at 75% of the tokens"
    assert doremi.paired is not None
    for seed, difference in doremi.paired.differences.items():
        ours = target_at(tmp_path, "doremi", seed, 45)
        theirs = target_at(tmp_path, "uniform", seed, 60)
        assert difference == pytest.approx(ours - theirs)


def test_a_mixer_is_paid_as_it_goes(tmp_path: Path) -> None:
    """Six percent a step: the budget of 60 steps is gone after 60 / 1.06 of them."""
    write_out(tmp_path, num_seeds=3, optimizer=CONSTANT)
    pair = found(tmp_path, "influence").paired

    assert pair is not None
    expected = target_at(tmp_path, "influence", 1, 60 / 1.06) - target_at(
        tmp_path, "uniform", 1, 60
    )
    assert pair.differences[1] == pytest.approx(expected)


def test_both_sides_of_wsd_are_read_before_the_decay(tmp_path: Path) -> None:
    """It begins after 48 steps, so the baseline is read at 40, and the arm where that buys it."""
    write_out(tmp_path, num_seeds=3, optimizer=WSD)
    make_overhead(tmp_path, "doremi", 0.25)
    doremi = found(tmp_path, "doremi")

    assert doremi.said == "its own curve at 62% of the tokens of both, before the decay"
    assert doremi.paired is not None
    ours, theirs = target_at(tmp_path, "doremi", 2, 25), target_at(tmp_path, "uniform", 2, 40)
    assert doremi.paired.differences[2] == pytest.approx(ours - theirs)


@pytest.mark.parametrize(
    ("optimizer", "overhead", "reason"),
    [
        ({"schedule": "cosine"}, 0.25, "under a cosine schedule no point of a curve"),
        (CONSTANT, 1.0, "its overhead alone is more than the budget"),
        (CONSTANT, 2.5, "its overhead alone is more than the budget"),
        (CONSTANT, 0.9, "before its first evaluation"),
        ({**CONSTANT, "warmup": 0.5}, 0.6, "its overhead leaves less than the warm-up"),
        ({**WSD, "decay": 0.9}, 0.25, "not evaluated before the learning rate falls"),
        (WSD, 0.67, "its overhead alone is more than the budget"),
    ],
)
def test_where_nothing_can_be_read_the_reason_is_said(
    tmp_path: Path, optimizer: dict[str, Any], overhead: float, reason: str
) -> None:
    write_out(tmp_path, num_seeds=2, optimizer=optimizer)
    make_overhead(tmp_path, "doremi", overhead)
    doremi = found(tmp_path, "doremi")

    assert (doremi.how, doremi.paired) == ("", None)
    assert reason in doremi.said
    assert f"No comparison at equal compute for doremi: {doremi.said}." in [
        s.text.replace("influence and ", "") for s in headline(load(tmp_path))
    ]


def test_a_bill_that_is_not_known_gives_no_comparison(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2, optimizer=CONSTANT)
    (tmp_path / "runs" / run_id_of("demo", "doremi-proxy", 0) / "run.json").unlink()

    assert found(tmp_path, "doremi").said == "a part of its overhead is not on record"


def test_the_curve_finds_what_a_run_of_that_length_would_have_shown(tmp_path: Path) -> None:
    """The made-up losses follow 1 - exp(-4 t), so every budget has a known answer.

    A straight line between evaluations lies above such a curve: the error is against the arm.
    """
    write_out(tmp_path, num_seeds=3, optimizer=CONSTANT)
    for share in (0.1, 0.33, 0.5):
        make_overhead(tmp_path, "doremi", share)
        pair = found(tmp_path, "doremi").paired
        assert pair is not None
        for seed in range(3):
            start, end = (target_at(tmp_path, "doremi", seed, step) for step in (0, 60))
            grown = math.expm1(-4 * (1 - share)) / math.expm1(-4)
            truth = start + (end - start) * grown - target_at(tmp_path, "uniform", seed, 60)

            assert -1e-9 < pair.differences[seed] - truth < 0.02


# ---- along training --------------------------------------------------------------------------


def test_curves_start_where_the_auxiliary_runs_end(eight: Path) -> None:
    table = along(load(eight)).set_index(["arm", "seed", "step"])
    main = 6 * 312_000 * 2048 * STEPS

    assert table.loc[("doremi", 0, 0), "flops"] == pytest.approx(main)
    assert table.loc[("doremi", 0, STEPS), "flops"] == pytest.approx(2 * main)
    assert table.loc[("doremi", 0, 0), "seconds"] == pytest.approx(3.0)
    assert table.loc[("influence", 0, STEPS), "flops"] == pytest.approx(1.06 * main)
    assert table.loc[("influence", 0, STEPS), "seconds"] == pytest.approx(1.06 * 3.0)
    assert table.loc[("uniform", 0, 30), "flops"] == pytest.approx(main / 2)
    assert table.loc[("uniform", 0, 30), "seconds"] == pytest.approx(1.5)


def test_the_end_of_a_curve_is_the_final_metric(eight: Path) -> None:
    last = along(load(eight)).query("step == 60").set_index(["arm", "seed"])["target"]
    final = measures.metrics(load(eight)).set_index(["arm", "seed"])["target"]

    pd.testing.assert_series_equal(last.sort_index(), final.sort_index())
