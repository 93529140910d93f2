"""Queries: encoded as the corpus encodes its documents, the answer never cut away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.assemble import open_shelf
from harness.attribution.evaluation.answers import Said
from harness.attribution.opened import Opened
from harness.attribution.queries import load_queries
from harness.attribution.query_spec import PromptQueries, SourceQueries, SplitQueries
from harness.errors import SpecError
from harness.spec import Batching, FilesDomain
from tests.harness.attribution.conftest import FACTS, TOKENS

TEMPLATE = "Q: {prompt}\nA:"


def prompts(folder: Path, content: Any) -> str:
    """Write a file of prompts; return its path."""
    path = folder / "prompts.json"
    path.write_text(json.dumps(content))
    return str(path)


def widened(opened: Opened, tokens: int) -> Opened:
    """Return the run with rows that hold whole documents."""
    wide = open_shelf(opened.store, "train", ("qa",), Batching(tokens=tokens, pack=False))
    stream = replace(opened.view.stream, train=wide)
    return replace(opened, view=replace(opened.view, stream=stream))


def test_a_prompt_of_the_training_set_is_its_training_row(opened: Opened, tmp_path: Path) -> None:
    """Same tokens, same targets, same mask: prompt apart, answer, end of text."""
    opened = widened(opened, 96)
    shown, row = opened.pool().shown(0), opened.pool().batch([0])
    question = shown.prompt.removeprefix("Q: ").removesuffix("\nA:")
    assert FACTS[question] == shown.answer.strip()  # nothing is cut away
    path = prompts(tmp_path, [{"prompt": question, "answer": shown.answer}])

    found = load_queries(opened, PromptQueries(path=path, template=TEMPLATE, answers="given"))

    assert torch.equal(found.batch.mask, row.mask)
    last = int(row.mask[0].nonzero().max()) + 1
    for name in ("inputs", "targets"):
        assert torch.equal(getattr(found.batch, name)[0, :last], getattr(row, name)[0, :last])
    assert found.shown == (shown,)
    assert found.names == ("prompt-001",)


def test_a_long_prompt_loses_its_beginning_and_no_answer(opened: Opened, tmp_path: Path) -> None:
    long = {"prompt": "Is it so? " * 40, "answer": " yes"}
    found = load_queries(opened, PromptQueries(path=prompts(tmp_path, [long]), answers="given"))

    assert found.batch.inputs.shape == (1, TOKENS)
    assert found.shown[0].answer == " yes"
    assert "so? " in found.shown[0].prompt


def test_answers_are_the_models_own_where_none_is_given(opened: Opened, tmp_path: Path) -> None:
    """What greedy decoding says has a lower loss than what another prompt's answer has."""
    questions = list(FACTS)[:4]
    path = prompts(tmp_path, {"prompts": questions})
    spec = PromptQueries(path=path, template=TEMPLATE, max_new_tokens=8)

    found = load_queries(opened, spec, lambda _: None)
    given = [{"prompt": q, "answer": s.answer} for q, s in zip(questions, found.shown, strict=True)]
    again = load_queries(
        opened, PromptQueries(path=prompts(tmp_path, given), template=TEMPLATE, answers="given")
    )

    assert len(found) == 4
    assert [shown.answer for shown in found.shown] == [shown.answer for shown in again.shown]
    shuffled = [{**one, "answer": given[i - 1]["answer"] + " no"} for i, one in enumerate(given)]
    other = load_queries(
        opened,
        PromptQueries(path=prompts(tmp_path, shuffled), template=TEMPLATE, answers="given"),
    )
    own, others = (opened.view.token_losses(q.batch).sum(1) for q in (found, other))
    assert bool((own < others).all())


def test_an_answer_that_was_cut_off_has_no_end(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model did not say that it ends there, so that is not explained."""
    spec = PromptQueries(path=prompts(tmp_path, ["Q: Why?\nA:"]), max_new_tokens=4)
    end = int(opened.store.manifest["tokenizer"]["end_of_text"])
    for ends in (True, False):
        said = [Said(" red", ends)]
        monkeypatch.setattr("harness.attribution.queries.speak", lambda *_, said=said: said)

        batch = load_queries(opened, spec, lambda _: None).batch

        assert (int(batch.targets[0][batch.mask[0]][-1]) == end) == ends


def test_what_the_model_said_is_kept(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage explains the same answers, whatever would be said now."""
    spec = PromptQueries(path=prompts(tmp_path, list(FACTS)[:2]), max_new_tokens=4)
    first = load_queries(opened, spec, lambda _: None, tmp_path / "kept")
    monkeypatch.setattr("harness.attribution.queries.speak", None)

    again = load_queries(opened, spec, lambda _: None, tmp_path / "kept")

    assert again.id == first.id


def test_held_back_rows_are_those_of_their_split(opened: Opened) -> None:
    found = load_queries(opened, SplitQueries(split="heldout", rows=3))

    assert len(found) == 3
    assert len(set(found.names)) == 3
    train = {opened.pool().shown(i).text for i in range(len(opened.pool()))}
    assert not {shown.text for shown in found.shown} & train
    assert load_queries(opened, SplitQueries(split="heldout", rows=3)).id == found.id
    assert load_queries(opened, SplitQueries(split="heldout", rows=2)).id != found.id


def test_any_source_of_the_corpus_layer_gives_queries(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    path.write_text("q,a\nWhat is the lamp like?,red\nWhat is the river like?,blue\n")
    domain = FilesDomain(paths=(str(path),), prompt="Q: {q}\nA:", answer=" {a}")

    found = load_queries(opened, SourceQueries(source=domain))

    assert sorted(shown.answer for shown in found.shown) == [" blue", " red"]
    assert all(shown.prompt.startswith("Q: What is the") for shown in found.shown)


@pytest.mark.parametrize(
    ("content", "settings", "told"),
    [
        ([], {}, "holds no prompts"),
        ({"prompt": "x"}, {}, "holds no prompts"),
        (["  "], {}, "entry 1: has no text under `prompt`"),
        (["x"], {"answers": "given"}, "entry 1: has no text under `answer`"),
        (["x"], {"template": "Q:"}, "has no {prompt}"),
    ],
)
def test_a_file_that_cannot_be_asked_is_one_line(
    content: Any, settings: dict[str, Any], told: str, opened: Opened, tmp_path: Path
) -> None:
    spec = PromptQueries(path=prompts(tmp_path, content), **settings)

    with pytest.raises(SpecError) as refused:
        load_queries(opened, spec)

    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_domain_that_is_not_there_is_refused(opened: Opened) -> None:
    with pytest.raises(SpecError, match="'x' is no domain of the run; choose qa"):
        load_queries(opened, SplitQueries(domain="x"))
