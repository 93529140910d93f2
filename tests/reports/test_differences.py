"""What an arm differs from the baseline in, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from reports.build import build
from reports.differences import differences
from reports.load import load
from tests.reports.synthetic import edit, write_out

UNIFORM = {"weights": "uniform", "temperature": 1.0, "share": 1.0}


def described(tmp_path: Path) -> Path:
    """Return a folder whose arms have settings as the harness writes them down."""
    write_out(tmp_path, num_seeds=1, effects={
        "uniform": 0.0, "influence": -0.1, "half": -0.1, "again": 0.0})  # fmt: skip
    path = tmp_path / "ablations" / "demo.json"
    arms = json.loads(path.read_text())["arms"]
    for label in ("uniform", "again"):
        arms[label] |= {"settings": UNIFORM, "changed": {}}
    half = {"weights": "target", "share": 0.5}
    arms["half"] |= {"settings": UNIFORM | half, "changed": half}
    every = {"every": 20, "temperature": 1.0, "estimator": {"kind": "directional"}}
    arms["influence"] |= {"settings": every, "changed": {"every": 20}}
    arms["influence"]["provenance"] = {"study": "tuning", "trial": 7, "arm": "before"}
    edit(path, arms=arms)
    return tmp_path


def test_only_what_differs_is_listed(tmp_path: Path) -> None:
    assert differences(load(described(tmp_path))) == {
        "influence": [
            ("method", "influence"),
            ("every", "20"),
            ("chosen by", "study tuning, trial 7"),
        ],
        "half": [("weights", "target"), ("share", "0.5")],
        "again": [("data_seed", "1000")],
    }


def test_a_file_of_before_lists_all_settings(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)

    assert differences(load(tmp_path))["influence"] == [
        ("method", "influence"),
        ("every", "20"),
        ("temperature", "1.0"),
    ]


def test_both_pages_show_it(tmp_path: Path) -> None:
    paths = build(described(tmp_path))

    assert "Differs from uniform in" in paths.html.read_text()
    assert "- half: weights = target; share = 0.5" in paths.markdown.read_text()
