"""The examples that people copy run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import hf_trainer


def test_the_trainer_example_prefers_sums_to_noise(tmp_path: Path) -> None:
    """It ends with more weight on the target's own domain than on noise."""
    weights = hf_trainer.main(str(tmp_path))

    assert sum(weights.values()) == pytest.approx(1)
    assert weights["sums"] > weights["noise"]
    assert (tmp_path / "mixture.json").exists()
