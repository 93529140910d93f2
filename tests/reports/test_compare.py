"""Two results side by side: planted differences are found, and the same run is no evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import SpecError
from reports.compare import compare, side
from reports.compare_table import table
from tests.reports.synthetic import EFFECTS, edit, run_id_of, write_out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two output folders; in the second influence gains .05 more, and doremi is gone."""
    effects = {arm: value for arm, value in EFFECTS.items() if arm != "doremi"}
    effects["influence"] -= 0.05
    one = write_out(tmp_path_factory.mktemp("one"))
    return one, write_out(tmp_path_factory.mktemp("other"), effects=effects)


def test_a_planted_difference_is_found_arm_by_arm(two: tuple[Path, Path]) -> None:
    found = compare(*(side(str(out), Path("none")) for out in two))

    rows = {row.arm: row for row in found.rows}
    assert rows["influence"].pair is not None
    assert rows["influence"].pair.mean == pytest.approx(-0.05 * (1 - 2.718281828**-4), abs=1e-4)
    assert rows["uniform"].pair is not None
    assert rows["uniform"].pair.mean == 0
    assert rows["doremi"].pair is None
    # a family of two at six seeds can decide nothing, one of one can
    assert rows["influence"].verdicts == ("no verdict", "better")


def test_runs_of_one_id_are_counted_as_the_same(two: tuple[Path, Path]) -> None:
    """Both folders were written by one rule, so every run has its twin's id."""
    found = compare(*(side(str(out), Path("none")) for out in two))

    assert {row.num_same for row in found.rows if row.pair} == {6}


def test_a_reports_folder_names_its_ablation(tmp_path: Path) -> None:
    out = write_out(tmp_path, name="first", num_seeds=2)
    write_out(tmp_path, name="second", num_seeds=2)
    for name in ("first", "second"):
        (out / "report" / name).mkdir(parents=True)

    found = side(str(out / "report/first"), Path("none"))

    assert found.run_ids["uniform"][0] == run_id_of("first", "uniform", 0)


def test_specs_that_differ_say_in_what(tmp_path: Path) -> None:
    for name, steps in (("a", 60), ("b", 90)):
        write_out(tmp_path / name, num_seeds=2)
        spec = {"budget": {"steps": steps}, "arms": {}, "margin": None}
        edit(tmp_path / name / "ablations/demo.json", spec=spec)

    found = compare(*(side(str(tmp_path / name), Path("none")) for name in "ab"))

    assert found.changes == [("budget.steps", "60", "90")]


def test_runs_of_two_commits_are_paired_by_what_they_asked_for(tmp_path: Path) -> None:
    """The ids differ because the code does; settings and seeds are what is the same."""
    commits = {"a" * 40: 0.0, "b" * 40: -0.1}
    for commit, effect in commits.items():
        out = write_out(tmp_path, name=commit[:1], num_seeds=3, effects={"uniform": effect})
        for seed in range(3):
            path = out / "runs" / run_id_of(commit[:1], "uniform", seed) / "run.json"
            mixer = {"class": "baselines.static:Static", "settings": {}, "code": commit[:8]}
            spec = {"seed": seed, "data_seed": seed, "num_steps": 60, "evaluation": {"every": 10}}
            edit(path, git_commit=commit, spec={**spec, "mixer": mixer})

    found = compare(side("aaaa", tmp_path), side("bbbb", tmp_path))

    (row,) = found.rows
    assert row.pair is not None
    assert row.pair.num_pairs == 3
    assert row.pair.mean == pytest.approx(-0.1 * (1 - 2.718281828**-4), abs=1e-4)
    assert row.num_same == 0


def test_two_questions_in_one_folder_are_not_taken_for_one(tmp_path: Path) -> None:
    """The same mixture at the same seed on other text, or at another model, is another cell."""
    for name, model in (("a", {"size": "nano"}), ("b", {"size": "micro"})):
        out = write_out(tmp_path, name=name, num_seeds=1, effects={"uniform": 0.0})
        path = out / "runs" / run_id_of(name, "uniform", 0) / "run.json"
        mixer = {"class": "baselines.static:Static", "settings": {}, "code": "c"}
        spec = {"seed": 0, "data_seed": 0, "num_steps": 60, "evaluation": {}, "mixer": mixer}
        edit(path, git_commit="a" * 40, spec={**spec, "evaluation": {"every": 9}, "model": model})

    assert len(side("aaaa", tmp_path).values) == 2


REFUSED = {
    "nowhere/at/all": "is no folder and no commit",
    "abcd": "no finished run in .* was made at this commit",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_neither_is_one_line(given: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()

    with pytest.raises(SpecError, match=REFUSED[given]):
        side(given, tmp_path)


def test_sides_without_a_common_arm_are_refused(tmp_path: Path) -> None:
    write_out(tmp_path / "a", num_seeds=2, effects={"uniform": 0.0})
    write_out(tmp_path / "b", num_seeds=2, effects={"uniform": 0.0})
    path = tmp_path / "b/ablations/demo.json"
    header = json.loads(path.read_text())
    edit(path, arms={"other": header["arms"]["uniform"]}, baseline="other")

    with pytest.raises(SpecError, match="share no arm"):
        compare(*(side(str(tmp_path / name), Path("none")) for name in "ab"))


def test_the_table_shows_both_means_and_the_interval(two: tuple[Path, Path]) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115

    console.print(table(compare(*(side(str(out), Path("none")) for out in two))))

    text = console.export_text()
    line = next(line for line in text.splitlines() if "influence" in line)
    assert "[" in line
    assert "better" in line
    assert "the specs are the same" in text
