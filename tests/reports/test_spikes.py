"""Instability: planted jumps are found, noise and falling curves are none, outliers are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from reports.cautions import cautions
from reports.load import load
from reports.spikes import LOSS_RISE, grubbs, jumps, seeds_apart, stands_out
from tests.reports.synthetic import edit, run_id_of, write_out


def change(out: Path, arm: str, seed: int, kind: str, **changes: object) -> None:
    """Rewrite records of one run: `step=(first, last)` limits which; numbers are multiplied."""
    path = out / "runs" / run_id_of("demo", arm, seed) / "records.jsonl"
    first, last = changes.pop("step", (0, 10**9))  # type: ignore[misc]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["kind"] == kind and first <= record["step"] <= last:
            record |= {key: record[key] * factor for key, factor in changes.items()}  # type: ignore[operator]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def curve(size: int, noise: float, seed: int) -> np.ndarray:
    """Return a loss that falls as losses do, with noise."""
    generator = np.random.default_rng(seed)
    return 3 + 5 * np.exp(-np.arange(size) / 40) + noise * generator.standard_normal(size)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.4])
def test_noise_and_falling_curves_are_no_jumps(noise: float) -> None:
    for seed in range(30):
        values = curve(400, noise, seed)
        assert not stands_out(values, LOSS_RISE * np.median(values))[0].any()


def test_heavy_tails_are_no_jumps() -> None:
    """Batches of one hard domain now and then, as where a method draws from few domains."""
    for seed in range(30):
        hard = np.random.default_rng(seed).random(400) < 0.2
        values = curve(400, 0.1, seed) + 0.8 * hard
        assert not stands_out(values, LOSS_RISE * np.median(values))[0].any()


@pytest.mark.parametrize("where", [12, 200, 390, 399])
@pytest.mark.parametrize("length", [1, 5])
def test_planted_jumps_are_found_where_they_are(where: int, length: int) -> None:
    for seed in range(30):
        values = curve(400, 0.05, seed)
        values[where : where + length] += 1.5
        found, _ = stands_out(values, LOSS_RISE * np.median(values))
        assert np.flatnonzero(found).tolist() == list(range(where, min(where + length, 400)))


def test_a_run_that_is_too_short_is_not_judged() -> None:
    values = curve(30, 0.0, 0)
    values[20] += 10

    assert not stands_out(values, 0.1)[0].any()


def test_made_up_runs_are_quiet(eight: Path) -> None:
    assert jumps(load(eight)) == []
    assert [c for c in cautions(load(eight)) if c.code in ("unstable", "outlier")] == []


def test_a_jump_of_loss_or_gradient_is_told(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    change(tmp_path, "influence", 1, "step", step=(40, 42), loss=1.5)
    change(tmp_path, "half", 0, "step", step=(30, 30), grad_norm=20.0)
    found = jumps(load(tmp_path))

    assert [(j.arm, j.seed, j.what, j.step, j.num_steps) for j in found] == [
        ("influence", 1, "training loss", 40, 3),
        ("half", 0, "gradient norm", 30, 1),
    ]
    assert found[1].value == pytest.approx(30)
    assert found[1].around == pytest.approx(1.5)
    text = " ".join(caution.text for caution in cautions(load(tmp_path)))
    assert "The training loss jumped in 1 run: influence seed 1, step 40" in text
    assert "The gradient norm jumped in 1 run: half seed 0, step 30: 30 where 1.5 is usual" in text


def test_grubbs_limit_is_that_of_the_tables() -> None:
    """Grubbs and Beck (1972), two-sided 5 %: 1.887 at 6, 2.126 at 8, 2.290 at 10 values."""
    for size, limit in ((6, 1.887), (8, 2.126), (10, 2.290)):
        assert grubbs(size, 0.05) == pytest.approx(limit, abs=2e-3)


def test_grubbs_limit_is_passed_as_often_as_it_says() -> None:
    drawn = scipy_stats.norm.rvs(size=(20_000, 8), random_state=1)
    offsets = np.abs(drawn - drawn.mean(1, keepdims=True)).max(1) / drawn.std(1, ddof=1)

    assert np.mean(offsets > grubbs(8, 0.05)) == pytest.approx(0.05, abs=0.005)


def test_a_seed_that_lies_apart_is_named_for_the_arm_that_it_is_of(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=8)
    change(tmp_path, "doremi", 5, "eval", step=(60, 60), bits_per_byte=1.2)

    assert [(a.arm, a.seed) for a in seeds_apart(load(tmp_path))] == [("doremi", 5)]
    text = " ".join(caution.text for caution in cautions(load(tmp_path)))
    assert "Seeds that lie apart from the others of their arm" in text
    assert "doremi seed 5 (+0." in text


def test_a_level_that_all_arms_share_is_no_outlier(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=8)
    for arm in ("uniform", "influence", "doremi", "half"):
        change(tmp_path, arm, 5, "eval", step=(60, 60), bits_per_byte=1.2)

    assert seeds_apart(load(tmp_path)) == []


def test_many_passes_over_a_domain_are_told(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "runs" / run_id_of("demo", "half", 1) / "run.json"
    repetitions = json.loads(path.read_text())["repetitions"]
    edit(path, repetitions=repetitions | {"security": 6.25, "code": 3.9})

    (caution,) = cautions(load(tmp_path))

    assert caution.code == "repetition"
    assert caution.text == (
        "Read more than 4 times, where new text would teach more: security in half 6.2 times."
    )
