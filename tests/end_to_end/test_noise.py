"""Random tokens as domains: said before training, kept in the records, and no arm wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, Out, steelyard

SMALL = ("--domains.a.num_documents=120", "--domains.b.num_documents=120")
SMALL += ("--domains.c.num_documents=120", "--budget.steps=4", "--evaluation.rows=8")


def test_noise_is_told_once_and_kept_wherever_a_reader_may_look(tmp_path: Path) -> None:
    arguments = [*SMALL, "--seeds", "0", "--batch.rows=4", "--arms.influence.settings.every=2"]
    result = steelyard("run", ROOT / "sweeps/noise.toml", *arguments, cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    out = Out(tmp_path / "runs")
    told = out.ablation("noise")["warnings"]
    assert [(w["code"], w["domain"], w["loud"]) for w in told] == [
        ("random", "a, b, c", True),
        ("alike", "a, b, c", True),
    ]
    for run_id in out.run_ids():
        assert out.header(run_id)["warnings"] == told
    panel, runs = result.stdout.split("runs: arms x seeds")
    assert panel.count("WARNING: rebalancing cannot work on these domains") == 1
    assert "look random" in panel
    assert "Rebalancing cannot work on a, b, c (like noise)" in " ".join(runs.split())
    report = out.folder / "report" / "noise"
    assert 'class="warnings"' in (report / "report.html").read_text()
    assert "**Warning**" in (report / "report.md").read_text()


@pytest.mark.slow
def test_on_noise_no_arm_is_better_or_worse(tmp_path: Path) -> None:
    """The method moves weight at random, and nothing held out moves beyond the A/A arm."""
    whole = (ROOT / "sweeps/noise.toml").read_text()
    before, natural, after = whole.partition("[arms.natural]")
    spec = tmp_path / "noise.toml"
    spec.write_text(before + after[after.index("[arms.influence]") :])
    shorter = ("--budget.steps=100", "--arms.influence.settings.every=25")
    result = steelyard("run", spec, *shorter, cwd=tmp_path)
    assert (natural, result.returncode) == ("[arms.natural]", 0), result.stderr

    out = Out(tmp_path / "runs")
    final = {arm: _final(out, arm) for arm in ("uniform", "again", "influence")}
    floor = max(abs(x - y) for x, y in zip(final["again"], final["uniform"], strict=True))
    moved = max(abs(x - y) for x, y in zip(final["influence"], final["uniform"], strict=True))
    assert 0 < moved <= floor
    assert "Whether influence differs from uniform is undecided" in " ".join(result.stdout.split())
    assert max(max(weights) for weights in _last_weights(out, "influence")) > 0.5


def _runs(out: Out, arm: str) -> list[str]:
    return [out.cell("noise", arm, seed)["run_id"] for seed in range(6)]


def _final(out: Out, arm: str) -> list[float]:
    """Return the held-out bits per byte on the target at the end, by seed."""
    evals = [out.records(run_id, "eval") for run_id in _runs(out, arm)]
    return [[r["bits_per_byte"] for r in e if r["domain"] == "a"][-1] for e in evals]


def _last_weights(out: Out, arm: str) -> list[list[float]]:
    return [out.records(run_id, "step")[-1]["weights"] for run_id in _runs(out, arm)]
