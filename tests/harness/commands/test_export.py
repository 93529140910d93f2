"""An exported mixture is what batches were drawn with, in each trainer's own terms."""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.commands.export import mixture
from harness.commands.fragments import FORMS, _identifiers, render
from harness.errors import SpecError

# two seeds of arm `moving`: the weights of four steps
STEPS = {
    0: [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.7, 0.3, 0.0], [0.9, 0.1, 0.0]],
    1: [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]],
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Write the records of an ablation: arm `moving` at two seeds, arm `waiting` not finished."""
    for seed, weights in STEPS.items():
        folder = tmp_path / "runs" / f"run{seed}"
        folder.mkdir(parents=True)
        header = {"versions": {"torch": "2"}, "git_commit": "abc"}
        (folder / "run.json").write_text(json.dumps(header))
        lines = [
            {"kind": "step", "step": i, "tokens": 100 * i, "weights": w}
            for i, w in enumerate(weights, start=1)
        ]
        lines.insert(2, {"kind": "note", "step": 1})  # type: ignore[arg-type]
        (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    cells = [{"seed": s, "status": "finished", "run_id": f"run{s}"} for s in STEPS]
    waiting = [{"seed": s, "status": "pending", "run_id": None} for s in STEPS]
    arm = {"method": "static", "settings": {"weights": "uniform"}}
    content = {
        "name": "t",
        "updated": "2026-01-01",
        "domains": ["code", "2-prose", "none"],
        "corpus_id": "c0",
        "arms": {"moving": {**arm, "runs": cells}, "waiting": {**arm, "runs": waiting}},
        "spec": {"domains": {n: {"kind": "files"} for n in ("code", "2-prose", "none")}},
    }
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "t.json").write_text(json.dumps(content))
    # code: 10 documents of 100 tokens; prose: 40 of 50
    sizes = {"code": (1000, 10), "2-prose": (2000, 40), "none": (500, 5)}
    domains = {
        n: {"splits": {"train": {"tokens": t, "documents": d}}} for n, (t, d) in sizes.items()
    }
    (tmp_path / "corpora" / "c0").mkdir(parents=True)
    (tmp_path / "corpora" / "c0" / "manifest.json").write_text(json.dumps({"domains": domains}))
    return tmp_path


def export(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what the command prints."""
    assert cli.main(["export", str(out), "moving", *arguments]) == 0
    return capsys.readouterr().out


def test_json_has_weights_runs_and_where_they_come_from(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(export(out, capsys))

    assert found["weights"] == pytest.approx({"code": 0.575, "2-prose": 0.425, "none": 0})
    assert sum(found["weights"].values()) == pytest.approx(1)
    assert found["runs"] == {"0": "run0", "1": "run1"}
    assert (found["ablation"], found["arm"], found["what"]) == ("t", "moving", "mean")
    assert found["provenance"]["method"] == "static"
    assert found["provenance"]["git_commit"] == "abc"
    assert found["train_tokens"]["2-prose"] == 2000


def test_one_seed_and_the_last_step(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = json.loads(export(out, capsys, "--what", "final"))["weights"]
    one = json.loads(export(out, capsys, "--what", "final", "--seed", "0"))

    assert last == pytest.approx({"code": 0.7, "2-prose": 0.3, "none": 0})
    assert one["weights"] == pytest.approx({"code": 0.9, "2-prose": 0.1, "none": 0})
    assert one["runs"] == {"0": "run0"}


def test_a_schedule_has_an_entry_for_each_change(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 3 begins after 200 tokens, step 4 after 300."""
    found = json.loads(export(out, capsys, "--what", "schedule"))["schedule"]

    assert [entry["tokens"] for entry in found] == [0, 200, 300]
    assert [entry["weights"]["code"] for entry in found] == pytest.approx([0.5, 0.6, 0.7])


def numbers(text: str) -> list[float]:
    """Return the numbers in a text."""
    return [float(number) for number in re.findall(r"\d\.\d+|\b1\b", text)]


def test_trainers_that_draw_documents_get_the_tokens_converted(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """.575 / 100 to .425 / 50 tokens a document; drawn so, tokens come out at .575 to .425."""
    expected = [0.575 / 100, 0.425 / 50]
    expected = [value / sum(expected) for value in expected]

    factory = export(out, capsys, "--format", "llamafactory")
    script = export(out, capsys, "--format", "interleave")

    given = re.search('interleave_probs: "(.*)"', factory)
    assert numbers(str(given)) == pytest.approx(expected, abs=1e-6)
    assert "dataset: code,2-prose\n" in factory
    assert "mix_strategy: interleave_under" in factory
    called: dict[str, Any] = {}
    plain = script.replace("from datasets import interleave_datasets", "")
    names = {"code": 1, "_2_prose": 2}
    names["interleave_datasets"] = lambda d, **k: called.update(k, data=d)  # type: ignore[assignment]
    exec(plain, names)
    assert called["data"] == [1, 2]
    assert called["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert sum(called["probabilities"]) == pytest.approx(1, abs=1e-12)


def test_interleave_datasets_takes_the_fragment(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn by the real library, documents come in the shares that give the tokens."""
    datasets = pytest.importorskip("datasets")
    sizes = {"code": 100, "_2_prose": 50}
    sets = {n: datasets.Dataset.from_dict({"size": [s] * 3000}) for n, s in sizes.items()}

    script = export(out, capsys, "--format", "interleave")
    exec(script.replace("all_exhausted", "first_exhausted"), sets)

    drawn = sets["mixed"]["size"]
    tokens = {size: sum(s for s in drawn if s == size) for size in (100, 50)}
    assert tokens[100] / sum(tokens.values()) == pytest.approx(0.575, abs=0.02)


def test_axolotl_keeps_shares_that_give_the_mixture(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = pytest.importorskip("yaml")

    found = yaml.safe_load(export(out, capsys, "--format", "axolotl"))["datasets"]

    kept = {entry["path"]: entry["weight"] for entry in found}
    assert set(kept) == {"code", "2-prose"}
    assert all(0 < weight <= 1 for weight in kept.values())
    assert max(kept.values()) == 1
    assert kept["code"] * 1000 / (kept["code"] * 1000 + kept["2-prose"] * 2000) == pytest.approx(
        0.575, abs=1e-5
    )


def test_trainers_that_draw_rows_get_the_weights_as_they_are(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = pytest.importorskip("yaml")

    paths = yaml.safe_load(export(out, capsys, "--format", "nemo"))["paths"]
    titan = export(out, capsys, "--format", "torchtitan")

    assert paths == [0.575, "code_text_document", 0.425, "2-prose_text_document"]
    compile(titan, "fragment", "exec")
    weights = re.findall(r"WeightedDataset\(.*dataset=(\w+)\), weight=([\d.]+)", titan)
    assert weights == [("code", "0.575"), ("_2_prose", "0.425")]


@pytest.mark.parametrize("form", FORMS)
def test_every_fragment_names_its_runs_and_what_it_leaves_out(
    form: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = export(out, capsys, "--format", form)

    assert "run0, run1" in text
    assert "# left out, at weight 0: none" in text


def test_without_the_corpus_the_fragments_say_what_they_assume(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "corpora" / "c0" / "manifest.json").unlink()

    for form in ("interleave", "axolotl", "llamafactory"):
        assert "The corpus is gone" in export(out, capsys, "--format", form)


def test_a_file_is_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = export(out, capsys, "--to", str(out / "m.json"))

    assert told == f"wrote {out / 'm.json'}\n"
    assert json.loads((out / "m.json").read_text())["arm"] == "moving"


BAD = {
    "no such folder": (["none", "moving"], "none: no such folder"),
    "no such arm": ([".", "movin"], "'movin' is no arm of 't'; choose one of moving, waiting"),
    "no such seed": ([".", "moving", "--seed", "7"], "no finished run of seed 7; finished: 0, 1"),
    "nothing finished": ([".", "waiting"], "no run of arm 'waiting' has finished yet"),
    "no such ablation": ([".", "moving", "--name", "x"], "no ablation 'x'"),
    "no ablation": (["runs", "moving"], "runs holds no ablation"),
    "schedule for a trainer": (
        [".", "moving", "--what", "schedule", "--format", "nemo"],
        "only --format=json can hold a schedule",
    ),
    "to nowhere": ([".", "moving", "--to", "no/m.json"], "no/m.json: cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_exported_is_one_line(
    case: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(out)
    arguments, expected = BAD[case]

    assert cli.main(["export", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"steelyard: .*\n", told.err)
    assert expected in told.err


def test_records_that_are_gone_are_a_mistake(out: Path) -> None:
    (out / "runs" / "run0" / "run.json").unlink()

    with pytest.raises(SpecError, match="run0 are gone"):
        mixture(out, "moving", None, None, "mean")


def test_tiny_weights_still_add_up(out: Path) -> None:
    found = mixture(out, "moving", "t", None, "mean")
    thin = type(found)(**{**found.__dict__, "weights": [1e-9, 0.3333333, 0.6666667]})

    text = render(thin, "nemo")

    assert sum(numbers("\n".join(re.findall(r"- (\d.*)", text)))) == pytest.approx(1, abs=1e-9)
    assert "# left out, at weight 0: code" in text


def test_a_fragment_in_python_names_every_domain_apart() -> None:
    """Words of Python and names that differ in punctuation alone stay different variables."""
    names = _identifiers(("class", "a-b", "a_b", "1st"))

    assert len(set(names)) == 4
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
