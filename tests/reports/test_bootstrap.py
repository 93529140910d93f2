"""The two-level bootstrap: what it draws, what it reads from records, and how often it covers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from harness.records import read_records
from reports import measures
from reports.bootstrap import Losses, bootstrap_intervals, two_level_interval
from reports.build import build
from reports.coverage import SEED_SD, TRUTH, WORLDS, coverage, simulate
from reports.load import load
from tests.reports.synthetic import EFFECTS, edit, run_id_of, write_out

RNG = np.random.default_rng


def only(bits: np.ndarray) -> np.ndarray:
    """Take the one domain as the metric."""
    picked: np.ndarray = bits[..., 0]
    return picked


def losses(difference: np.ndarray, num_bytes: np.ndarray) -> Losses:
    """Return documents whose arm differs from its baseline by so many bits per byte [S, D]."""
    baseline = RNG(9).uniform(1, 3, difference.shape)
    scale = num_bytes * math.log(2)
    return Losses((baseline + difference) * scale, baseline * scale, num_bytes)


def test_arms_see_the_same_documents_so_what_they_share_cancels() -> None:
    """A difference of .1 on every document and seed, under documents that differ by bits."""
    shared = losses(np.full((6, 20), 0.1), RNG(0).integers(1, 50, 20).astype(float))

    assert two_level_interval([shared], only) == pytest.approx((0.1, 0.1))


def test_with_one_document_it_is_the_bootstrap_of_seeds() -> None:
    by_seed = RNG(1).normal(0, 1, 8)
    means = RNG(2).choice(by_seed, (20_000, 8)).mean(1)

    found = two_level_interval([losses(by_seed[:, None], np.ones(1))], only, 20_000)

    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)


def test_with_equal_seeds_it_is_the_bootstrap_of_documents() -> None:
    """Not narrower for there being eight seeds: they were all evaluated on the same documents."""
    by_document, num_bytes = RNG(3).normal(0, 1, 15), RNG(4).integers(1, 9, 15).astype(float)
    drawn = RNG(5).integers(0, 15, (20_000, 15))
    ratios = (by_document * num_bytes)[drawn].sum(1) / num_bytes[drawn].sum(1)

    found = two_level_interval([losses(np.tile(by_document, (8, 1)), num_bytes)], only, 20_000)

    assert found == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.04)


def test_the_metric_is_taken_in_every_draw() -> None:
    """The worst of two domains is the larger one's difference, whatever the other's is."""
    high, low = (losses(np.full((4, 5), d), np.ones(5)) for d in (0.2, -0.7))
    high = high._replace(arm=high.arm + 10, baseline=high.baseline + 10)

    assert two_level_interval([high, low], lambda b: b.max(-1)) == pytest.approx((0.2, 0.2))
    assert two_level_interval([high, low], lambda b: b.mean(-1)) == pytest.approx((-0.25, -0.25))


def test_one_seed_has_no_interval() -> None:
    assert all(
        math.isnan(v) for v in two_level_interval([losses(np.ones((1, 3)), np.ones(3))], only)
    )


@pytest.mark.parametrize("primary", ["target", "mean", "worst"])
def test_it_stands_around_the_difference_that_the_records_give(
    tmp_path: Path, primary: str
) -> None:
    edit(write_out(tmp_path, num_seeds=6) / "ablations" / "demo.json", primary=primary)
    evidence = load(tmp_path)
    judged = measures.judge(evidence)

    found = bootstrap_intervals(evidence)

    assert list(found) == ["influence", "doremi", "half"]
    for arm, (low, high) in found.items():
        pair = judged[arm].paired
        assert pair is not None
        assert low < pair.mean < high
        if primary != "worst":  # other documents can make another domain the worst one
            assert pair.low - 0.3 * pair.sd < low < high < pair.high + 0.3 * pair.sd


def test_losses_by_document_add_up_to_those_of_the_domain(eight: Path) -> None:
    evidence = load(eight)
    own = evidence.documents[evidence.documents["run_id"] == run_id_of("demo", "half", 3)]
    sums = own.groupby("domain", observed=True)[["nats", "num_bytes"]].sum()
    bits = sums["nats"] / math.log(2) / sums["num_bytes"]
    final = measures.final_evals(evidence).set_index(["arm", "seed", "domain"])["bits_per_byte"]

    for domain, value in bits.items():
        assert value == pytest.approx(final["half", 3, domain])


def test_it_is_in_every_form_of_the_report(eight: Path) -> None:
    paths = build(eight)

    assert "bootstrap [" in paths.html.read_text()
    assert "Two-level bootstrap over seeds and documents: " in paths.markdown.read_text()
    assert "bootstrap_low" in paths.arms.read_text()


def test_runs_of_before_have_none_and_say_nothing(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "runs" / run_id_of("demo", "half", 1) / "records.jsonl"
    kept = [r for r in read_records(path) if r["kind"] != "documents"]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    assert list(bootstrap_intervals(load(tmp_path))) == ["influence", "doremi"]
    for path in tmp_path.glob("runs/*/records.jsonl"):
        kept = [r for r in read_records(path) if r["kind"] != "documents"]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    assert bootstrap_intervals(load(tmp_path)) == {}
    assert "Two-level" not in build(tmp_path).markdown.read_text()


def test_an_ablation_of_which_nothing_has_finished_has_none(tmp_path: Path) -> None:
    broken = {(arm, 0): ("running", None) for arm in EFFECTS}

    assert bootstrap_intervals(load(write_out(tmp_path, num_seeds=1, broken=broken))) == {}


def test_the_simulated_worlds_are_what_they_say() -> None:
    """The mean over many seeds is the truth on those documents; over many sets, the truth."""
    generator = np.random.default_rng(0)
    one, here = simulate(WORLDS[2], 4000, generator)
    bits = (one.arm - one.baseline).sum(1) / math.log(2) / one.num_bytes.sum()
    truths = [simulate(WORLDS[2], 2, generator)[1] for _ in range(2000)]

    assert bits.mean() == pytest.approx(here, abs=0.001)
    assert bits.std() == pytest.approx(math.hypot(SEED_SD, 0.03 / math.sqrt(55)), rel=0.05)
    assert np.mean(truths) == pytest.approx(TRUTH, abs=0.0005)
    assert np.std(truths) == pytest.approx(SEED_SD / math.sqrt(6), rel=0.12)


def test_coverage_is_measured_and_the_shared_documents_earn_theirs() -> None:
    """300 simulations at six seeds of what `python -m reports.coverage` prints for 2,000."""
    differ = coverage(WORLDS[2], 6, simulations=300)

    assert abs(differ.t_same_text - 0.95) < 0.04
    assert differ.t_any_text < 0.93
    assert differ.two_level > 0.82
    assert differ.nested < differ.two_level
