"""The noise floor: which arms are A/A arms, what they say, and how often that holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from reports.build import build
from reports.headline import headline
from reports.load import load
from reports.noise import NoiseFloor, floor_of, noise_floors, twins
from reports.stats import paired_difference
from tests.reports.synthetic import write_out

EFFECTS = {"uniform": 0.0, "influence": -0.065, "half": -0.09, "again": 0.0}


def change(out: Path, arm: str, **changes: object) -> Path:
    """Change an arm of an ablation that was written."""
    path = out / "ablations" / "demo.json"
    header = json.loads(path.read_text())
    header["arms"][arm] |= changes
    path.write_text(json.dumps(header))
    return out


@pytest.fixture(scope="module")
def twinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ablation whose arm `again` is uniform with another order of data."""
    return write_out(tmp_path_factory.mktemp("twinned"), num_seeds=8, effects=EFFECTS)


def floor(values: np.ndarray) -> NoiseFloor:
    pair = paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    return NoiseFloor("again", "uniform", pair)


def test_an_aa_arm_is_compared_with_the_arm_of_equal_settings(twinned: Path) -> None:
    evidence = load(twinned)

    (found,) = noise_floors(evidence)

    assert twins(evidence) == {"again": "uniform"}  # half is static too, with other weights
    assert (found.arm, found.twin, found.paired.num_pairs) == ("again", "uniform", 8)
    assert abs(found.paired.mean) < 0.02
    assert 0.005 < found.paired.sd < 0.03


def test_an_equal_arm_with_the_same_order_of_data_is_no_aa_arm(tmp_path: Path) -> None:
    out = change(write_out(tmp_path, num_seeds=2, effects=EFFECTS), "again", data_seed=None)

    assert noise_floors(load(out)) == []


def test_an_arm_with_data_of_its_own_and_no_twin_is_no_aa_arm(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2, effects=EFFECTS)
    out = change(tmp_path, "again", settings={"weights": "natural"})

    assert twins(load(out)) == {}


def test_the_report_says_which_methods_lie_beyond_the_floor(twinned: Path) -> None:
    text = " ".join(statement.text for statement in headline(load(twinned)))
    paths = build(twinned)

    assert "Noise floor: again is uniform with another order of data and differs from it" in text
    assert "Beyond that, as one method in 20 is by chance: influence." in text
    assert "## Noise floor" in paths.markdown.read_text()
    assert "Noise floor" in paths.html.read_text()


def test_a_method_that_order_of_data_could_have_made_is_within_it(tmp_path: Path) -> None:
    # an arm without an effect, said to be a method
    out = write_out(tmp_path, num_seeds=8, effects=EFFECTS | {"influence": 0.0})

    text = " ".join(statement.text for statement in headline(load(out)))

    assert "Within it: influence." in text


def test_an_aa_arm_is_not_held_against_its_own_floor(tmp_path: Path) -> None:
    """Also where the spec does not call it a control."""
    out = change(write_out(tmp_path, num_seeds=2, effects=EFFECTS), "again", control=False)

    text = " ".join(statement.text for statement in headline(load(out)))

    assert "Noise floor: again is uniform" in text
    assert not any(f"{words}: again" in text for words in ("Within it", "by chance"))
    assert "influence and again" not in text.partition("Noise floor")[2]


def test_the_reach_is_that_of_a_t_about_0_by_hand() -> None:
    # the spread about 0 of (3, -1, 2, -4) is sqrt(30 / 4); t of 4 degrees of freedom is 2.776
    assert floor(np.array([3.0, -1, 2, -4])).reach(9) == pytest.approx(
        2.776 * math.sqrt(7.5) / 3, rel=1e-3
    )


def test_one_pair_has_no_reach_and_several_floors_have_the_highest() -> None:
    one, small, large = (floor(np.array(v)) for v in ([0.1], [0.1, -0.1, 0.1], [0.5, -0.4, 0.5]))

    assert math.isnan(one.reach(3))
    assert floor_of([one, small, large], 3) == large.reach(3)
    assert math.isnan(floor_of([one], 3))
    assert math.isnan(floor_of([small], 0))


@pytest.mark.parametrize(("num_twins", "num_pairs"), [(6, 6), (4, 8)])
def test_19_of_20_means_without_a_reason_lie_within_the_reach(
    num_twins: int, num_pairs: int
) -> None:
    """10,000 A/A arms, and as many means of differences that are noise alone."""
    generator = np.random.default_rng(0)
    inside = [
        abs(generator.normal(0, 0.01, num_pairs).mean())
        <= floor(generator.normal(0, 0.01, num_twins)).reach(num_pairs)
        for _ in range(10_000)
    ]

    assert abs(np.mean(inside) - 0.95) < 0.01
