"""A user's own files through the command line: questions with answers, articles, and the rest."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.ablate import run_ablation
from harness.cli import find_method
from harness.errors import SpecError
from harness.labor import Display, Staff
from harness.specfile import load_ablation
from tests.end_to_end.conftest import Out, steelyard
from tests.harness.corpus.test_bad_inputs import prose

SPEC = r"""
name = "own"
target = "qa"
seeds = [0]
baseline = "uniform"
device = "cpu"
precision = "float32"
threads = 1
tokenizer = { vocab_size = 400 }
batch = { rows = 8, tokens = 16 }
budget = { steps = 6 }
evaluation = { every = 3, rows = 8 }

[domains.qa]
kind = "files"
splits = { train = ["DATA/train.jsonl"], heldout = ["DATA/test.jsonl"] }
prompt = "Question: {question}\nAnswer:"
answer = " {answer}"

[domains.wiki]
kind = "files"
paths = ["DATA/*.txt.gz"]
separator = '\n(?== )'
normalize = { whitespace = "collapse" }

[domains.s]
kind = "synthetic"
num_documents = 40

[arms.uniform]
method = "static"

[arms.influence]
method = "influence"
settings = { every = 3, rows = 2, probe_rows = 4, estimator = { check_rows = 2 } }
"""


def write(folder: Path) -> None:
    """Write two files of questions with answers, and one of articles."""
    folder.mkdir()
    for name, first, count in (("train", 0, 60), ("test", 60, 12)):
        rows = (
            {"question": prose(i), "answer": prose(i + 500)} for i in range(first, first + count)
        )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    articles = "".join(
        f"= Title {i} =\n{prose(i + 1000)}\n\n{prose(i + 2000)}\n" for i in range(40)
    )
    (folder / "wiki.txt.gz").write_bytes(gzip.compress(articles.encode()))


@pytest.mark.slow
def test_own_files_are_compared_and_found_again_wherever_they_lie(tmp_path: Path) -> None:
    """Trained once; the second start trains nothing, also after the files have moved."""
    write(tmp_path / "data")
    spec = tmp_path / "own.toml"
    spec.write_text(SPEC.replace("DATA", "data"))
    first = steelyard("run", spec.name, "--out", "out", "--jobs", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = Out(tmp_path / "out")
    corpus = out.folder / "corpora" / out.ablation("own")["corpus_id"]
    before, runs = out.ablation("own")["arms"], out.run_ids()

    shutil.move(tmp_path / "data", tmp_path / "moved")
    spec.write_text(SPEC.replace("DATA", "moved"))
    again = steelyard("run", spec.name, "--out", "out", cwd=tmp_path)

    assert again.returncode == 0, again.stderr
    assert "corpus: reading" in first.stdout
    assert "corpus: reading" not in again.stdout
    assert out.ablation("own")["arms"] == before
    assert out.run_ids() == runs
    facts = json.loads((corpus / "manifest.json").read_text())["domains"]
    assert facts["qa"]["splits"]["heldout"]["documents"] == 12
    assert (facts["qa"]["loss"], facts["wiki"]["documents_read"]) == ("answer", 40)
    run = out.cell("own", "influence", 0)["run_id"]
    assert out.header(run)["spec"]["corpus"]["domains"]["qa"]["answer"] == " {answer}"
    evaluated = [r for r in out.records(run, "eval") if r["domain"] == "qa"]
    assert all(0 < r["num_tokens"] < 8 * 16 for r in evaluated)
    wiki = [r for r in out.records(run, "eval") if r["domain"] == "wiki"]
    assert all(r["num_tokens"] == 8 * 16 for r in wiki)

    test = tmp_path / "moved" / "test.jsonl"
    test.write_text(test.read_text().replace("quick", "slow"))
    changed = steelyard("run", spec.name, "--out", "out", cwd=tmp_path)

    assert changed.returncode == 2
    assert (
        "holds another ablation 'own', which differs in the text of its domains" in changed.stderr
    )


class Appending(Display):
    """A display before whose eyes a file of the spec grows, after the first run."""

    def __init__(self, path: Path) -> None:
        """Take the file."""
        self.path = path

    def outcome(self, *_: Any) -> None:
        """Add a line to it."""
        with self.path.open("a") as file:
            file.write(json.dumps({"question": prose(7), "answer": prose(8)}) + "\n")


def one_arm(folder: Path) -> Any:
    """Return an ablation of one arm and two seeds on a file of questions, in `folder`."""
    write(folder / "data")
    spec = folder / "own.toml"
    text, _, _ = SPEC.replace("DATA", "data").partition("[arms.influence]")
    spec.write_text(text.replace("seeds = [0]", "seeds = [0, 1]"))
    return load_ablation(spec, (), find_method)


def test_runs_that_are_compared_read_the_same_text_though_a_file_grows_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ablation, out = one_arm(tmp_path), tmp_path / "out"
    display = Appending(tmp_path / "data/train.jsonl")

    summary = run_ablation(ablation, out, Staff(1), display, ["steelyard"])

    assert summary.finished == 2
    headers = [json.loads(path.read_text()) for path in out.glob("runs/*/run.json")]
    (corpus,) = {header["corpus_id"] for header in headers}
    assert {header["spec"]["corpus_id"] for header in headers} == {corpus}
    assert Out(out).ablation("own")["corpus_id"] == corpus
    with pytest.raises(SpecError, match="holds another ablation 'own', which differs in"):
        run_ablation(ablation, out, Staff(1), Display(), ["steelyard"])


def test_text_that_changes_between_its_id_and_its_reading_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ablation = one_arm(tmp_path)
    monkeypatch.setattr("harness.ablate.corpus_id", lambda *_: "0123456789abcdef")

    with pytest.raises(SpecError, match="their text has changed since this command began"):
        run_ablation(ablation, tmp_path / "out", Staff(1), Display(), ["steelyard"])

    assert not list((tmp_path / "out").glob("runs/*"))
