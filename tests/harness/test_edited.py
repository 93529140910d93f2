"""Train rows that differ from the corpus's: chosen, answered otherwise, planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import Mixer
from harness.assemble import open_shelf, open_train, train_rows
from harness.corpus import TokenStore, open_corpus
from harness.edited import Chosen, edited
from harness.opening import open_view
from harness.runner import Runner
from harness.spec import Batching, Edit, RunSpec
from harness.stream import DocumentShelf, Shelf
from tests import tiny
from tests.harness.attribution.conftest import TOKENS, corpus_of

QA = "qa"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Return a corpus of questions with answers."""
    out = tmp_path_factory.mktemp("answered")
    return open_corpus(corpus_of(out), out / "corpora")


def of_documents(store: TokenStore) -> DocumentShelf:
    shelf = open_shelf(store, "train", store.trained, Batching(tokens=64, pack=False))
    assert isinstance(shelf, DocumentShelf)
    return shelf


def targets(shelf: Shelf | Chosen, row: int, name: str = QA) -> list[int]:
    """Return the counted targets of a row: its answer and the end of text."""
    batch = shelf.batch([(name, row)], (name,), "cpu")
    return batch.targets[0][batch.mask[0]].tolist()


def prompt(shelf: Shelf | Chosen, row: int) -> list[int]:
    batch = shelf.batch([(QA, row)], (QA,), "cpu")
    return batch.inputs[0][: int(batch.mask[0].nonzero()[0]) + 1].tolist()


@pytest.mark.parametrize("pack", [True, False])
def test_chosen_rows_are_the_shelfs_own_and_are_numbered_anew(
    pack: bool, store: TokenStore
) -> None:
    shelf = open_shelf(store, "train", store.trained, Batching(tokens=32, pack=pack))
    name, other = store.trained[:2]

    found = edited(shelf, Edit(only={name: (5, 2, 7)}), store)

    assert (found.num_rows(name), found.num_rows(other)) == (3, shelf.num_rows(other))
    picks, own = [(name, 1), (other, 4), (name, 2)], [(name, 2), (other, 4), (name, 7)]
    one, two = (s.batch(p, store.trained, "cpu") for s, p in ((found, picks), (shelf, own)))
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.targets, two.targets)
    assert one.rows.tolist() == [2, 4, 7]
    assert found.telling_rows(name).tolist() == [0, 1, 2]


def test_text_is_in_proportion_to_the_targets_that_are_kept(store: TokenStore) -> None:
    name = store.trained[0]
    shelf = open_shelf(store, "train", store.trained, Batching(tokens=32))
    half = tuple(range(shelf.num_rows(name) // 2))

    found = edited(shelf, Edit(only={name: half}), store)

    share = len(half) / shelf.num_rows(name)
    assert found.num_tokens(name) == pytest.approx(share * len(shelf.streams[name]))
    every = edited(shelf, Edit(only={name: tuple(range(shelf.num_rows(name)))}), store)
    assert every.num_tokens(name) == shelf.num_tokens(name) == len(shelf.streams[name])


@pytest.mark.parametrize("pack", [True, False])
def test_silent_rows_keep_their_places_and_have_no_targets(pack: bool, store: TokenStore) -> None:
    shelf = open_shelf(store, "train", store.trained, Batching(tokens=32, pack=pack))
    name, other = store.trained[:2]
    size = shelf.num_rows(name)

    found = edited(shelf, Edit(silent={name: (4, 0)}), store)

    picks = [(name, row) for row in range(size)] + [(other, 0)]
    one, two = (s.batch(picks, store.trained, "cpu") for s in (found, shelf))
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.targets, two.targets)
    quiet = torch.zeros(size + 1, dtype=torch.bool)
    quiet[[4, 0]] = True
    assert not one.mask[quiet].any()
    assert torch.equal(one.mask[~quiet], two.mask[~quiet])
    assert found.telling_rows(name).tolist() == [r for r in range(size) if r not in (0, 4)]
    assert found.num_tokens(name) == shelf.num_tokens(name)


def test_a_row_is_given_anothers_answer_and_keeps_its_prompt(answered: TokenStore) -> None:
    shelf = of_documents(answered)

    found = edited(shelf, Edit(answers={QA: ((0, 3), (3, 1))}), answered)

    assert targets(found, 0) == targets(shelf, 3) != targets(shelf, 0)
    assert targets(found, 3) == targets(shelf, 1)  # of the corpus, whatever row 1 becomes
    assert prompt(found, 0) == prompt(shelf, 0)
    untouched = [row for row in range(shelf.num_rows(QA)) if row not in (0, 3)]
    for row in untouched:
        assert targets(found, row) == targets(shelf, row)
        assert prompt(found, row) == prompt(shelf, row)


def test_planted_rows_follow_the_corpuss_own(answered: TokenStore) -> None:
    shelf = of_documents(answered)
    size = shelf.num_rows(QA)
    facts = (("Q: who?\nA:", " me"), ("Q: when?\nA:", " now"))

    found = edited(shelf, Edit(planted={QA: facts}), answered)

    assert found.num_rows(QA) == size + 2
    assert targets(found, size - 1) == targets(shelf, size - 1)
    from harness.attribution.rows import show
    from harness.corpus.tokenizer import from_text

    tokenizer = from_text((answered.folder / "tokenizer.json").read_text())
    batch = found.batch([(QA, size), (QA, size + 1)], (QA,), "cpu")
    assert [tuple(s) for s in show(batch, tokenizer)] == list(facts)
    end = answered.manifest["tokenizer"]["end_of_text"]
    assert targets(found, size)[-1] == end
    both = edited(shelf, Edit(planted={QA: facts}, only={QA: (size + 1,)}), answered)
    assert both.num_rows(QA) == 1
    assert targets(both, 0) == targets(found, size + 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit(only={"nowhere": (0,)}), "'nowhere' is no trained domain"),
        (Edit(only={QA: ()}), "no row of 'qa' is left"),
        (Edit(silent={QA: (999,)}), "not 999"),
        (Edit(only={QA: (0, 999)}), r"'qa' has rows 0 to \d+, not 0\.\.999"),
        (Edit(answers={QA: ((0, -1),)}), "not -1"),
    ],
)
def test_what_is_not_there_is_an_error(edit: Edit, message: str, answered: TokenStore) -> None:
    with pytest.raises(ValueError, match=message):
        edited(of_documents(answered), edit, answered)


def test_a_domain_cannot_be_silenced_whole(answered: TokenStore) -> None:
    shelf = of_documents(answered)
    every = Edit(silent={QA: tuple(range(shelf.num_rows(QA)))})

    with pytest.raises(ValueError, match="no row of 'qa' is left"):
        edited(shelf, every, answered)


def test_plain_text_has_no_answers_to_change(store: TokenStore) -> None:
    shelf, name = of_documents(store), store.trained[0]

    with pytest.raises(ValueError, match="no prompts with answers"):
        edited(shelf, Edit(answers={name: ((0, 1),)}), store)
    with pytest.raises(ValueError, match="no prompts with answers"):
        edited(shelf, Edit(planted={name: (("a", "b"),)}), store)
    size = shelf.num_rows(name)
    found = edited(shelf, Edit(planted={name: (("", "two words"),)}), store)
    assert found.num_rows(name) == size + 1
    assert targets(found, 3, name) == targets(shelf, 3, name)
    assert len(targets(found, size, name)) >= 1


def test_no_run_changes_its_id_and_each_edit_has_its_own(store: TokenStore) -> None:
    plain = tiny.run_spec(store)
    first, second = (replace(plain, edit=Edit(only={"a": (row,)})) for row in (0, 1))

    assert "edit" not in plain.canonical
    assert len({plain.run_id, first.run_id, second.run_id}) == 3


def test_a_run_on_chosen_rows_draws_no_other_and_opens_again(
    store: TokenStore, tmp_path: Path
) -> None:
    out = tmp_path
    own = open_corpus(tiny.corpus_spec(), out / "corpora")
    name = own.trained[0]
    spec = tiny.run_spec(own, edit=Edit(only={name: (3, 1)}), evaluation=None, mixer=Mixer())

    Runner(out, own, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker()).ensure(spec)

    view, _ = open_view(out / "runs" / spec.run_id)
    assert int(view.train_rows[0]) == 2
    assert train_rows(own, spec)[name] == 2
    assert set(view.candidates(99).rows[view.candidates(99).domains == 0].tolist()) == {1, 3}
    whole = replace(spec, edit=None)
    prior = [open_train(own, s).num_tokens(name) for s in (spec, whole)]
    assert prior[0] == pytest.approx(prior[1] * 2 / train_rows(own, whole)[name])
    assert float(view.prior[0]) < 0.1 < 1 / 3 - 0.1


def test_an_edited_run_has_a_pool_of_its_own(tmp_path: Path) -> None:
    from harness.attribution.opened import open_run

    store = open_corpus(corpus_of(tmp_path), tmp_path / "corpora")
    common: RunSpec = tiny.run_spec(
        store,
        corpus=corpus_of(tmp_path),
        targets={QA: 1.0},
        batch=Batching(rows=4, tokens=TOKENS, pack=False),
        num_steps=2,
        mixer=Mixer(),
    )
    edits = [Edit(only={QA: rows}) for rows in ((0, 1, 2), (3, 4, 5))]
    pools = []
    for edit in edits:
        spec = replace(common, edit=edit)
        Runner(tmp_path, store, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker()).ensure(spec)
        pools.append(open_run(tmp_path / "runs" / spec.run_id).pool())

    assert pools[0].picks == pools[1].picks
    assert pools[0].id != pools[1].id
    assert np.array_equal(pools[1].batch([0]).rows.numpy(), [3])
