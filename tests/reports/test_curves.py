"""Curves against tokens, FLOPs and seconds; what is worth its compute; weights side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import curve_figures, measures, weight_figures
from reports.load import load
from reports.pareto import Point, frontier, pareto, points
from tests.reports.synthetic import edit, run_id_of, write_out

MAIN = 6 * 312_000 * 2048 * 60  # FLOPs of a main run


def test_the_primary_metric_is_drawn_against_all_three(eight: Path) -> None:
    tokens, flops, seconds = curve_figures.spending(load(eight))

    for panel, last in ((tokens, 2048 * 60), (flops, 2 * MAIN), (seconds, 6.0)):
        lines = {t["name"]: t for t in panel.spec["data"] if t["mode"] == "lines+markers"}
        assert set(lines) == {"uniform", "influence", "doremi", "half"}
        assert lines["doremi"]["x"][-1] == pytest.approx(last)
        ends = [line["y"][-1] for line in lines.values()]
        assert ends == [line for line in ends if 1 < line < 3]
    assert [p.spec["layout"]["xaxis"]["title"]["text"] for p in (tokens, seconds)] == [
        "training tokens",
        "seconds of training, mixer and auxiliary runs",
    ]


def test_auxiliary_runs_shift_a_curve_and_a_mixer_stretches_it(eight: Path) -> None:
    _, flops, _ = curve_figures.spending(load(eight))
    lines = {t["name"]: t["x"] for t in flops.spec["data"] if t["mode"] == "lines+markers"}

    for ours, theirs in zip(lines["doremi"], lines["uniform"], strict=True):
        assert ours - theirs == pytest.approx(MAIN)
    for ours, theirs in zip(lines["influence"], lines["uniform"], strict=True):
        assert ours / theirs == pytest.approx(1.06)


def test_a_cost_that_is_not_known_leaves_the_curve_out(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)
    (tmp_path / "runs" / run_id_of("demo", "doremi-proxy", 0) / "run.json").unlink()
    tokens, flops, _ = curve_figures.spending(load(tmp_path))

    assert "doremi" in {t.get("name") for t in tokens.spec["data"]}
    assert "doremi" not in {t.get("name") for t in flops.spec["data"]}
    assert "doremi" not in {point.label for point in points(load(tmp_path))}


def test_every_arm_has_a_place_by_its_compute(eight: Path) -> None:
    found = {point.label: point for point in points(load(eight))}
    pair = measures.judge(load(eight))["influence"].paired

    assert pair is not None
    assert found["uniform"] == Point("uniform", "baseline", 1.0, 0.0, *[pytest.approx(
        float("nan"), nan_ok=True)] * 2)  # fmt: skip
    assert found["doremi"].times == pytest.approx(2)
    assert found["influence"].times == pytest.approx(1.06)
    ours = found["influence"]
    assert (ours.difference, ours.low, ours.high) == (pair.mean, pair.low, pair.high)


def test_the_longer_baseline_is_a_point_of_its_own(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=3, longer=-0.03)
    found = {point.label: point for point in points(load(tmp_path))}

    assert found["uniform, 120 steps"].times == pytest.approx(2)
    assert found["uniform, 64 steps"].times == pytest.approx(64 / 60)
    assert found["uniform, 120 steps"].difference == pytest.approx(-0.03 * (1 - 0.0183156), 1e-4)


def test_the_frontier_holds_what_nothing_undercuts() -> None:
    nan = float("nan")
    made = [("a", 1.0, 0.0), ("b", 1.0, -0.1), ("c", 2.0, -0.05), ("d", 3.0, -0.2)]
    found = [Point(label, "method", times, loss, nan, nan) for label, times, loss in made]

    assert [point.label for point in frontier(found)] == ["b", "d"]


def test_the_drawing_says_what_it_shows(eight: Path) -> None:
    (panel,) = pareto(load(eight))

    assert "doremi 2.00 times" in panel.alt
    assert "Undercut by none: half." in panel.alt


def test_a_replay_stands_beside_the_arm_that_it_replays(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "ablations" / "demo.json"
    arms = json.loads(path.read_text())["arms"]
    replay = json.loads(json.dumps(arms["influence"])) | {"control": True}
    for run in replay["runs"]:
        run["shown"] = [run["run_id"]]
    edit(path, arms=arms | {"of_influence": replay})

    panels, _ = weight_figures.weights(load(tmp_path))

    assert [panel.title for panel in panels] == ["influence", "of_influence", "doremi"]
