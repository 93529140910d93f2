"""An ablation's name is kept for what it asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from baselines.static import Static
from harness.corpus import corpus_id
from harness.errors import SpecError
from harness.files import write_json
from harness.labor import Display, Notices
from harness.preflight import ablation_path, check_name, plain
from harness.spec import Ablation, Arm, Budget, Model, Tokenizer
from harness.trackers import UNREACHABLE
from tests import tiny

ABLATION = Ablation(
    name="tried",
    target="a",
    seeds=(0, 1),
    domains=tiny.corpus_spec().domains,
    arms={"one": Arm(method="static", settings=Static())},
    baseline="one",
    budget=Budget(steps=3),
)
OTHER = {"two": Arm(method="static", settings=Static(weights="natural"))}
CHANGED = {"one": Arm(method="static", settings=Static(weights="natural"))}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder in which the ablation was run before."""
    ablation_path(ABLATION, tmp_path).parent.mkdir()
    content = {"spec": plain(ABLATION), "corpus_id": corpus_id(ABLATION.corpus)}
    write_json(ablation_path(ABLATION, tmp_path), content)
    return tmp_path


@pytest.mark.parametrize(
    "ablation",
    [
        ABLATION,
        replace(ABLATION, seeds=(0, 1, 2)),
        replace(ABLATION, arms={**ABLATION.arms, **OTHER}),
        replace(ABLATION, trackers=("wandb",)),
        replace(ABLATION, name="new", seeds=(5,)),
        replace(ABLATION, name="new", margin=0.01),
    ],
)
def test_seeds_and_arms_may_be_added(ablation: Ablation, out: Path) -> None:
    """More evidence under the same name hides nothing."""
    check_name(ablation, out, corpus_id(ablation.corpus), "")


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        (replace(ABLATION, seeds=(1,)), "seeds"),
        (replace(ABLATION, budget=Budget(steps=4)), "budget"),
        (replace(ABLATION, margin=0.01), "margin"),
        (replace(ABLATION, arms=CHANGED), r"arms\.one"),
        (replace(ABLATION, arms=OTHER, baseline="two"), r"arms\.one \(gone\)"),
    ],
)
def test_what_was_tried_is_not_overwritten(ablation: Ablation, words: str, out: Path) -> None:
    """A dropped seed or a changed setting needs a name of its own."""
    with pytest.raises(SpecError, match=words):
        check_name(ablation, out, corpus_id(ablation.corpus), "")


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan"), "0.01"])
def test_a_margin_is_a_size(margin: Any) -> None:
    with pytest.raises(ValidationError, match="margin"):
        replace(ABLATION, margin=margin)


def test_a_margin_is_kept_and_a_file_of_before_it_existed_may_declare_one(out: Path) -> None:
    """A margin chosen once results are seen would be a verdict by choice."""
    path, text_id = ablation_path(ABLATION, out), corpus_id(ABLATION.corpus)
    with_margin = replace(ABLATION, margin=0.01)
    write_json(path, {"spec": plain(with_margin), "corpus_id": text_id})
    for other in (ABLATION, replace(ABLATION, margin=0.02)):
        with pytest.raises(SpecError, match="differs in margin;"):
            check_name(other, out, text_id, "")
    check_name(with_margin, out, text_id, "")

    before = {key: value for key, value in plain(ABLATION).items() if key != "margin"}
    write_json(path, {"spec": before, "corpus_id": text_id})
    check_name(ABLATION, out, text_id, "")
    check_name(with_margin, out, text_id, "")


def test_a_model_that_moved_is_the_same_ablation(tmp_path: Path) -> None:
    """What it holds counts, and so does a tokenizer's content; another model is refused."""
    here = replace(
        ABLATION,
        model=Model(source="models/a"),
        tokenizer=Tokenizer(kind="pretrained", source="models/a"),
    )
    there = replace(
        here,
        model=Model(source="moved/a"),
        tokenizer=Tokenizer(kind="pretrained", source="moved/a"),
    )
    ablation_path(here, tmp_path).parent.mkdir()
    content = {"spec": plain(here), "corpus_id": "c", "model_id": "m"}
    write_json(ablation_path(here, tmp_path), content)

    check_name(there, tmp_path, "c", "m")
    with pytest.raises(SpecError, match="differs in model;"):
        check_name(there, tmp_path, "c", "another")


def test_a_server_that_no_worker_reaches_is_one_piece_of_news() -> None:
    """Each says it in words of its own."""
    told: list[str] = []
    display = Display()
    display.say = told.append  # type: ignore[method-assign]
    notices = Notices(display)
    for text in (f"{UNREACHABLE} (one)", "no disk", f"{UNREACHABLE} (two)", "no disk"):
        notices.hear(text)

    assert told == [f"{UNREACHABLE} (one)", "no disk"]
    assert notices.told == {UNREACHABLE, "no disk"}
