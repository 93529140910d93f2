"""The page of an evaluation: its numbers, its words, and that it stands by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import SpecError
from reports.attribution import evaluation, judgements, model_judgements
from reports.attribution import evaluation_words as words
from tests.reports.attribution.made_evaluation import BASELINES, ESTIMATORS, made, parts_made

FOUND = parts_made()


def test_a_good_estimator_is_shown_and_a_random_one_is_not() -> None:
    agreed = judgements.datamodelling(FOUND["lds"], BASELINES)

    by_label = {row.label: row for row in agreed.rows}
    assert agreed.rows[0].label == "good"
    assert by_label["good"].score.sign == 1
    assert by_label["random"].score.sign == 0
    assert by_label["backwards"].score.sign == -1
    assert agreed.rival in BASELINES
    assert by_label["good"].gap is not None
    assert by_label["good"].gap.sign == 1
    assert by_label[agreed.rival].gap is None
    assert agreed.agreement is not None
    assert agreed.agreement.value < agreed.ceiling < 1
    told = words.of_subsets(agreed, ESTIMATORS)
    assert ("Rank retrainings better than chance: good.", True, 1) in told
    assert ("Rank them the wrong way round: backwards.", True, -1) in told


def test_one_replica_has_no_ceiling() -> None:
    one = {**FOUND["lds"], "losses": FOUND["lds"]["losses"][:1]}
    agreed = judgements.datamodelling(one, BASELINES)

    assert agreed.agreement is None
    assert agreed.ceiling != agreed.ceiling


def test_gains_are_beyond_those_of_random_rows() -> None:
    rows = {row.label: row for row in judgements.tail_patch(FOUND["tail_patch"])}

    assert rows["good"].beyond.value == pytest.approx(0.2, abs=0.05)
    assert rows["random"].beyond.sign == 0


def test_auc_and_recall_are_those_of_the_ranking() -> None:
    found = {"rows": 6, "wrong": [0, 3], "values": {"own": [5.0, 1, 2, 4, 3, 0], "flat": [1.0] * 6}}
    rows = {row.label: row for row in judgements.mislabelled(found)}

    assert rows["own"].auc.value == 1.0
    assert rows["own"].recall == 1.0
    assert rows["flat"].auc.value == 0.5
    assert rows["own"].curve.tolist() == [0.5, 1, 1, 1, 1, 1]


def test_ranks_become_mrr_and_recall() -> None:
    found = {"rows": 500, "ranks": {"own": [[1, 3], [4, 200], [2, 9]]}}
    (row,) = judgements.planted(found)

    assert row.reciprocal.value == pytest.approx((1 + 1 / 4 + 1 / 2) / 3)
    assert {k: round(r.value, 4) for k, r in row.recalls.items()} == {
        1: round(1 / 6, 4),
        10: round(5 / 6, 4),
        100: round(5 / 6, 4),
    }


def test_metrics_have_errors_and_paired_differences() -> None:
    table = model_judgements.answers(FOUND["answers"])

    exact = [row["metrics"]["fine-tuned"]["exact"] for row in FOUND["answers"]["answers"]]
    own = table["fine-tuned"]["exact"]
    assert own.mean == pytest.approx(np.mean(exact))
    assert own.error == pytest.approx(np.std(exact, ddof=1) / len(exact) ** 0.5)
    assert own.gap is not None
    assert table["base"]["exact"].gap is None
    unknown = {**FOUND["answers"], "answers": [{"metrics": {}}]}
    assert model_judgements.answers(unknown) == {}


def test_accuracy_is_by_subject_and_over_all() -> None:
    rows = model_judgements.choices(FOUND["choice"])

    assert [row.model for row in rows] == ["base", "fine-tuned"]
    right = np.array(FOUND["choice"]["answered"]["base"]["right"])
    assert rows[0].all.mean == pytest.approx(right.mean())
    assert rows[0].all.error == pytest.approx(right.std(ddof=1) / len(right) ** 0.5)
    assert list(rows[0].subjects) == ["law", "ethics"]


def test_cut_prompts_are_told_beside_the_accuracy(tmp_path: Path) -> None:
    folder = made(tmp_path, ("choice",))
    lines = evaluation.summary(folder)
    text = evaluation.write(folder, tmp_path / "pages").read_text()

    warning = (
        "lost their beginning: base 2 of 30, fine-tuned 2 of 30. Accuracy on those says little"
    )
    assert any(re.fullmatch(r"choice: base .+, 2 of 30 prompts cut", line) for line in lines)
    assert any(warning in line for line in lines)
    assert warning in text.split("<table>")[0]
    assert "Prompts cut</th><th" in text  # before the subjects, of which there may be many
    rows = model_judgements.choices(FOUND["choice"])
    assert words.of_cuts(rows, 30, 0)[0].endswith("little; ask shorter questions.")
    assert words.of_cuts(rows, 30, 5)[0].endswith("questions, or set choice.shots below 5.")
    (path,) = (folder / "parts").iterdir()
    path.write_text(path.read_text().replace('"cut": 2', '"cut": 0'))
    assert not any("cut" in line for line in evaluation.summary(folder))
    assert "Prompts cut" not in evaluation.write(folder, tmp_path / "pages").read_text()


def test_the_page_holds_every_part_and_asks_for_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path)

    path = evaluation.write(folder, tmp_path / "pages")

    text = path.read_text()
    for heading in re.findall(r"<h2 id=\"[\w-]+\">(.+?)</h2>", text):
        assert "{" not in heading
    assert text.count("<h2 id=") == 7
    for claim, color in (("Rank them the wrong", "proven against"), ("Rank retrain", "proven")):
        assert f'<li class="{color}"><span class="tag">shown</span> {claim}' in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text.split("<script>")[0])
    specs = json.loads(re.search(r'id="specs">(.+?)</script>', text, re.S)[1])  # type: ignore[index]
    assert set(specs) == {"lds", "predicted", "removal", "tail-patch", "mislabelled", "planted"}
    assert "&lt;b&gt;bold&lt;/b&gt;" in text  # an answer is text, not markup
    assert "<b>bold</b>" not in text


def test_a_page_of_one_part_is_a_page(tmp_path: Path) -> None:
    folder = made(tmp_path, ("answers",))

    text = evaluation.write(folder, tmp_path).read_text()

    assert text.count("<h2 id=") == 1


def test_the_summary_says_every_part(tmp_path: Path) -> None:
    lines = evaluation.summary(made(tmp_path))

    assert {line.split(":")[0] for line in lines} == set(FOUND)
    assert any(re.fullmatch(r"lds: good 0\.\d+ \[0\.\d+, 0\.\d+\]", line) for line in lines)


def test_what_is_masked_is_said_and_comes_last(tmp_path: Path) -> None:
    values = {"own": [5.0, 1.0, None, 4.0]}
    found = {"rows": 4, "wrong": [2], "values": values}
    (row,) = judgements.mislabelled(found)
    assert row.auc.value == 0
    assert row.curve.tolist() == [0, 0, 0, 1]
    assert words.of_masks(found) == ["Masked rows come last and add nothing to a sum: own 1."]

    folder = made(tmp_path, ("lds",))
    (path,) = (folder / "parts").iterdir()
    lds = json.loads(path.read_text())
    lds["losses"] = np.array(lds["losses"])[:, :, 1:].tolist()
    lds["sums"] = {label: np.array(own)[:, 1:].tolist() for label, own in lds["sums"].items()}
    path.write_text(json.dumps({**lds, "masked_queries": ["query-0"], "masked_rows": {"good": 3}}))
    text = evaluation.write(folder, tmp_path).read_text()

    assert "Without 1 queries that an estimator has masked: query-0." in text
    assert "Masked rows come last and add nothing to a sum: good 3." in text
    assert "over 11 queries" in text


def test_another_step_than_the_last_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path)
    index = json.loads((folder / "index.json").read_text())
    assert "Attributed is" not in evaluation.write(folder, tmp_path / "pages").read_text()
    (folder / "index.json").write_text(json.dumps({**index, "step": 20, "num_steps": 90}))

    text = evaluation.write(folder, tmp_path / "pages").read_text()

    assert "Attributed is the model of step 20, and retrainings are judged at the end" in text
    assert evaluation.summary(folder)[0].startswith("Attributed is the model of step 20")
    parts = {name: path for name, path in index["parts"].items() if name == "tail_patch"}
    alone = {"step": 20, "num_steps": 90, "parts": parts}
    assert words.of_step(alone) == ""  # no model is trained again for it
    assert words.of_step({**alone, "step": 90, "parts": {"lds": ""}}) == ""


def test_no_evaluation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no evaluation here"):
        evaluation.write(tmp_path, tmp_path)


def test_statements_name_what_is_not_shown() -> None:
    told: list[Any] = words.of_patches(judgements.tail_patch(FOUND["tail_patch"]))

    assert told[0].is_proven
    assert told[0].text.startswith(
        "A step on the top rows helps the query more than one on random rows"
    )
    assert told[1].is_proven  # that it is worse is shown as well
    assert told[1].text.endswith("helps the query less than one on random rows: backwards.")
    assert not told[2].is_proven
    assert told[2].text.endswith("more or less than random rows: random.")


def test_what_is_worse_is_not_called_unknown() -> None:
    """Every part tells better, worse and neither apart."""
    values = {
        "up": [1.0] * 8 + [0.0] * 40,
        "down": [0.0] * 8 + [1.0] * 40,
        "flat": [0.5] * 48,
    }
    found = {"rows": 48, "wrong": list(range(8)), "values": values}

    detected = words.of_detection(judgements.mislabelled(found))

    assert [(one.text.rsplit(": ", 1)[1], one.is_proven) for one in detected] == [
        ("up.", True),
        ("down.", True),
        ("flat.", False),
    ]
    few = {**found, "wrong": list(range(4))}
    assert [one.is_proven for one in words.of_detection(judgements.mislabelled(few))] == [False]
