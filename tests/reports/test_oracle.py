"""The fraction of the oracle's gap: its ends, its interval, and where there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports import measures
from reports.arms import arms_table
from reports.build import build
from reports.headline import headline
from reports.load import load
from reports.oracle import oracle, ratio_of_means, static_weights
from tests.reports.synthetic import run_id_of, write_out


def test_uniform_is_0_and_the_best_static_mixture_is_1(eight: Path) -> None:
    found = oracle(load(eight))
    values = measures.by_seed(load(eight), "target")
    uniform, half, arm = (
        np.array(list(values[label].values())) for label in ("uniform", "half", "influence")
    )

    assert (found.uniform, found.best, found.reason) == ("uniform", "half", "")
    assert found.gap is not None
    assert found.gap.mean == pytest.approx((half - uniform).mean())
    assert found.shares["uniform"].value == 0
    assert found.shares["half"].value == 1
    expected = (uniform - arm).mean() / (uniform - half).mean()
    assert found.shares["influence"].value == pytest.approx(expected)
    assert found.shares["influence"].low < 0.065 / 0.09 < found.shares["influence"].high


def test_what_is_static_is_read_from_the_weights(eight: Path) -> None:
    """DoReMi's main run is static as well: found by a method, and here above half on target."""
    weights = static_weights(load(eight))

    assert list(weights) == ["uniform", "doremi", "half"]
    assert weights["half"] == pytest.approx([0.125, 0.125, 0.125, 0.125, 0.5])
    assert oracle(load(eight)).best == "half"


def test_a_method_below_the_oracle_closes_more_than_all_of_the_gap(tmp_path: Path) -> None:
    effects = {"uniform": 0.0, "influence": -0.2, "half": -0.09}
    table = arms_table(load(write_out(tmp_path, num_seeds=6, effects=effects))).set_index("arm")

    assert table.loc["influence", "gap_closed"] == pytest.approx(0.2 / 0.09, rel=0.3)
    assert table.loc["influence", "gap_low"] > 1


def test_a_gap_that_may_be_0_gives_no_number_and_says_so(tmp_path: Path) -> None:
    effects = {"uniform": 0.0, "influence": -0.065, "half": 0.0}
    evidence = load(write_out(tmp_path, num_seeds=6, effects=effects))
    found, markdown = oracle(evidence), build(tmp_path).markdown.read_text()

    assert found.shares == {}
    assert "the best static mixture found, half, is not told apart from uniform" in found.reason
    assert arms_table(evidence)["gap_closed"].isna().all()
    assert "No fraction of the oracle's gap is given: the best static mixture" in markdown
    assert not any("gap" in statement.text for statement in headline(evidence))


def test_without_a_uniform_arm_or_another_mixture_there_is_no_scale(tmp_path: Path) -> None:
    alone = {"uniform": 0.0, "influence": -0.065}
    write_out(tmp_path, num_seeds=2, effects=alone)
    assert oracle(load(tmp_path)).reason == "no other static mixture has finished"

    header = json.loads((tmp_path / "ablations" / "demo.json").read_text())
    header["baseline"] = "influence"
    del header["arms"]["uniform"]
    (tmp_path / "ablations" / "demo.json").write_text(json.dumps(header))
    assert oracle(load(tmp_path)).reason == "no arm with uniform weights has finished"


def test_an_aa_arm_is_neither_end_of_the_scale(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=6)
    path = tmp_path / "ablations" / "demo.json"
    header = json.loads(path.read_text())
    header["arms"]["half"]["data_seed"] = 5
    path.write_text(json.dumps(header))

    found = oracle(load(tmp_path))

    assert found.best == "doremi"  # the only other static mixture, which is not below uniform
    assert found.shares == {}


def test_a_mixture_that_a_method_searched_for_may_be_the_best_also_where_seeds_differ(
    tmp_path: Path,
) -> None:
    """Each seed's search ends at weights of its own; within a run they stay."""
    effects = {"uniform": 0.0, "half": -0.09, "doremi": -0.15}
    write_out(tmp_path, num_seeds=6, effects=effects)
    path = tmp_path / "runs" / run_id_of("demo", "doremi", 0) / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["kind"] == "step":
            record["weights"] = [0.0, 0.0, 0.0, 0.0, 1.0]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    found = oracle(load(tmp_path))

    assert found.best == "doremi"
    assert found.shares["doremi"].value == 1.0
    assert 0.4 < found.shares["half"].value < 0.8


def test_the_fraction_is_in_every_form_of_the_report(eight: Path) -> None:
    paths = build(eight)
    closed = pd.read_csv(paths.arms).set_index("arm")["gap_closed"]

    assert closed["uniform"] == 0
    assert closed["half"] == 1
    for path in (paths.html, paths.markdown):
        assert f"{100 * closed['influence']:.0f}%" in path.read_text()
    assert "influence closes" in " ".join(s.text for s in headline(load(eight)))


def test_the_ratio_by_hand() -> None:
    """Without noise in the gap the interval is the gain's t interval over the gap."""
    gains, gaps = np.array([1.0, 2.0, 3.0]), np.full(3, 4.0)
    half = 4.302653 * 1 / math.sqrt(3) / 4

    assert ratio_of_means(gains, gaps) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert ratio_of_means(gaps, gaps) == pytest.approx((1, 1, 1))


def test_no_ratio_without_a_gap_or_a_second_pair() -> None:
    for gaps in ([0.1, -0.1, 0.05], [-1.0, -1.1, -0.9], [1.0]):
        share = ratio_of_means(np.ones(len(gaps)), np.array(gaps))

        assert all(math.isnan(value) for value in share)


@pytest.mark.parametrize("truth", [0.0, 0.6, 1.5])
def test_the_interval_covers_the_fraction_95_times_in_100(truth: float) -> None:
    """10,000 times at six seeds; gains and gaps share the noise of uniform."""
    generator, covered = np.random.default_rng(1), []
    for _ in range(10_000):
        shared, own, other = generator.normal(0, 0.01, (3, 6))
        share = ratio_of_means(0.09 * truth + shared + own, 0.09 + shared + other)
        covered.append(share.low <= truth <= share.high)

    assert abs(np.mean(covered) - 0.95) < 0.01
