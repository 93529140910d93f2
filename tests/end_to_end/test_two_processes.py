"""Several `steelyard run` on one output folder at once do no harm, and no work twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import ARMS, Finished, Out, command, environment, timeless, write_spec

pytestmark = pytest.mark.slow

SAME_AS = {"counted": "uniform", "uniform": "uniform", "doremi": "doremi", "half": "half"}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which two processes ran one spec, and a third one that shares runs."""
    folder = tmp_path_factory.mktemp("together")
    counted = f'method = "misbehaving:Counted"\nsettings = {{ log = "{folder / "log"}" }}'
    shared = {"counted": counted, "doremi": ARMS["doremi"]}
    one = write_spec(folder / "one.toml", {"uniform": ARMS["uniform"], **shared}, seeds=(0,))
    other = write_spec(
        folder / "other.toml",
        {**shared, "uniform": ARMS["uniform"], "half": ARMS["half"]},
        seeds=(0,),
    )
    processes = [
        subprocess.Popen(
            command("run", spec, "--out", folder / "out", "--jobs", 1),
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for spec in (one, one, other)
    ]
    told = [process.communicate(timeout=300) for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert [stderr for _, stderr in told] == ["", "", ""]
    return folder


def test_every_cell_is_filled_in_both_ablations(together: Path) -> None:
    out = Out(together / "out")

    for name, labels in (("one", 3), ("other", 4)):
        arms = out.ablation(name)["arms"]
        assert len(arms) == labels
        assert {cell["status"] for arm in arms.values() for cell in arm["runs"]} == {"finished"}
        assert (together / "out/report" / name / "report.html").exists()


def test_every_run_is_trained_once(together: Path) -> None:
    """A step for each line: had a second process trained or resumed the run, there were more."""
    steps = (together / "log").read_text().split()

    assert steps == [str(step) for step in range(12)]


def test_the_corpus_is_built_once_and_nothing_half_written_stays(together: Path) -> None:
    out = together / "out"

    assert len(list((out / "corpora").glob("*/manifest.json"))) == 1
    assert not list(out.rglob("*.part*"))


def test_results_equal_those_of_a_lone_run(together: Path, finished: Finished) -> None:
    """By run id where the method is the same, by their records in any case."""
    out, lone = Out(together / "out"), finished.out

    for name in ("one", "other"):
        for label, arm in out.ablation(name)["arms"].items():
            (cell,) = arm["runs"]
            expected = lone.cell("tiny", SAME_AS[label], 0)
            assert timeless(out.records(cell["run_id"])) == timeless(
                lone.records(expected["run_id"])
            )
            if label != "counted":
                clock = {"plan_seconds": 0.0}  # the only key that a clock may change
                assert {**cell, **clock} == {**expected, **clock}
