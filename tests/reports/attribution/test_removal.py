"""Leaving rows out: intervals that hold although queries share runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.attribution import evaluation
from reports.attribution import evaluation_words as words
from reports.attribution.agreement import mean_interval
from reports.attribution.removal import removal
from reports.attribution.spread import clustered, interval
from tests.reports.attribution.made_evaluation import made, parts_made

FOUND = parts_made()["removal"]


def test_leaving_out_is_measured_beyond_random_groups() -> None:
    left = removal(FOUND)

    rows = {row.label: row for row in left.rows}
    assert rows["good"].rise.value == pytest.approx(0.5 + left.random, abs=0.1)
    assert rows["good"].beyond.sign == 1
    assert rows["random"].beyond.sign == 0
    assert left.groups["good"].value > 0.8


def _noise(generator: np.random.Generator, groups: int, same: int) -> dict[str, Any]:
    """Return a part of 8 queries and one label without effect; `same` queries share a run.

    Every run has its own noise, the same for all queries: what a longer or shorter training does.
    """
    queries = list(range(8))
    facts: list[dict[str, Any]] = [{"kind": "random", "label": None, "query": None}] * groups
    facts += [{"kind": "top", "label": "own", "query": q} for q in queries]
    runs = [f"random {g}" for g in range(groups)] + [f"top {max(q, same - 1)}" for q in queries]
    noise = {run: generator.normal() for run in runs}
    losses = [noise[run] + 0.3 * generator.normal(size=8) for run in runs]
    return {
        "groups": facts,
        "queries": queries,
        "run_ids": [runs],
        "whole": [(generator.normal() + 0.1 * generator.normal(size=8)).tolist()],
        "losses": [np.array(losses).tolist()],
        "sums": {"own": generator.normal(size=(len(facts), 8)).tolist()},
    }


@pytest.mark.parametrize("same", [1, 3])
def test_intervals_hold_where_queries_share_runs(same: int) -> None:
    """The t interval over queries holds nothing in far more than one case of twenty."""
    generator, old, new, rise = np.random.default_rng(0), 0, 0, 0
    times = 600
    for _ in range(times):
        found = _noise(generator, 8, same)
        (row,) = removal(found).rows
        losses = np.array(found["losses"][0])
        t = mean_interval(losses[8:].diagonal() - losses[:8].mean(0))
        old += t.low <= 0 <= t.high
        new += row.beyond.low <= 0 <= row.beyond.high
        rise += row.rise.low <= 0 <= row.rise.high

    assert old / times < 0.93
    assert new / times > 0.93
    assert rise / times > 0.93


def test_without_anything_shared_it_is_the_t_interval() -> None:
    values = np.random.default_rng(1).normal(size=9)

    found = interval(float(values.mean()), [clustered(values, range(9))], 9)

    assert found == pytest.approx(mean_interval(values))


def test_one_run_for_all_queries_has_no_interval_and_says_so(tmp_path: Path) -> None:
    runs = [[own if g < 10 else "one" for g, own in enumerate(r)] for r in FOUND["run_ids"]]
    left = removal({**FOUND, "run_ids": runs})

    good = next(row for row in left.rows if row.label == "good")
    assert good.distinct == 1
    assert math.isnan(good.beyond.low)
    assert good.beyond.sign == 0
    told = words.of_shared(left, 6)
    assert told[0].startswith("Queries with the same top rows are one retraining and count once: ")
    assert "good 1" in told[0]
    assert words.of_shared(removal(FOUND), 6) == []
    folder = made(tmp_path, ("removal",))
    (path,) = (folder / "parts").iterdir()
    path.write_text(path.read_text().replace("000000000b", "000000000a"))
    assert any("count once: good 5 of 6" in line for line in evaluation.summary(folder))
    assert "count once: good 5 of 6" in evaluation.write(folder, tmp_path / "pages").read_text()
