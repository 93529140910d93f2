"""Rows that are one document each: cut, padded, and with nothing of a neighbour in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import Mixer
from harness.assemble import open_shelf
from harness.corpus import TokenStore, open_corpus
from harness.errors import SpecError
from harness.model import build_model, token_losses
from harness.opening import open_view
from harness.records import read_records
from harness.runner import Runner
from harness.spec import Batching, Evaluation
from harness.stream import DocumentShelf, Shelf
from tests import tiny

STREAM = np.arange(100, 120)
STARTS = np.array([0, 4, 5, 17])  # documents of 4, 1, 12 and 3 tokens


def shelf(tokens: int = 6, masks: dict[str, np.ndarray] | None = None) -> DocumentShelf:
    return DocumentShelf({"d": STREAM}, tokens, masks or {}, {"d": STARTS})


def test_a_row_is_a_document_cut_after_its_tokens_and_padded() -> None:
    batch = shelf().batch([("d", row) for row in range(4)], ("d",), "cpu")

    assert batch.inputs.tolist() == [
        [100, 101, 102, 0, 0, 0],
        [0] * 6,
        [105, 106, 107, 108, 109, 110],
        [117, 118, 0, 0, 0, 0],
    ]
    assert batch.targets[0].tolist() == [101, 102, 103, 0, 0, 0]
    assert batch.targets[2].tolist() == [106, 107, 108, 109, 110, 111]
    assert batch.mask.sum(1).tolist() == [3, 0, 6, 2]


def test_a_document_of_one_token_tells_nothing_and_one_whose_answer_was_cut_off_neither() -> None:
    assert shelf().telling_rows("d").tolist() == [0, 2, 3]
    counted = np.zeros(20, dtype=bool)
    counted[[3, 15]] = True  # the last of the first; of the third, behind the cut
    answers = shelf(masks={"d": counted})

    assert answers.telling_rows("d").tolist() == [0]
    assert answers.batch([("d", 0)], ("d",), "cpu").mask.tolist() == [
        [False, False, True, *[False] * 3]
    ]
    assert shelf(20, {"d": counted}).telling_rows("d").tolist() == [0, 2]


def test_places_are_where_targets_stand_in_the_stream() -> None:
    rows = np.array([0, 2])
    documents, packed = shelf(), Shelf({"d": STREAM}, 6)

    for one in (documents, packed):
        batch = one.batch([("d", int(row)) for row in rows], ("d",), "cpu")
        found = STREAM[one.places("d", rows)]
        assert np.array_equal(found[batch.mask.numpy()], batch.targets.numpy()[batch.mask.numpy()])


def test_padding_changes_no_loss(store: TokenStore) -> None:
    """A causal model reads nothing to the right of a target."""
    domain = store.trained[0]
    short, long = (
        open_shelf(store, "train", [domain], Batching(tokens=tokens, pack=False))
        for tokens in (16, 40)
    )
    model = build_model(tiny.run_spec(store).model, store.vocab_size, 40, seed=3)
    picks = [(domain, int(row)) for row in short.telling_rows(domain)[:5]]

    one = token_losses(model, short.batch(picks, (domain,), "cpu"))
    other = token_losses(model, long.batch(picks, (domain,), "cpu"))

    assert torch.allclose(one, other[:, :16], atol=1e-6)


def test_a_run_trains_and_is_evaluated_on_documents(tmp_path: Path) -> None:
    store = open_corpus(tiny.corpus_spec(), tmp_path / "corpora")
    packed = tiny.run_spec(store, evaluation=Evaluation(every=4, rows=4, splits=("heldout",)))
    spec = replace(packed, batch=replace(packed.batch, pack=False), mixer=Mixer())
    runner = Runner(tmp_path, store, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker())

    runner.ensure(spec)

    folder = tmp_path / "runs" / spec.run_id
    view, _ = open_view(folder)
    domain = store.trained[0]
    assert int(view.train_rows[0]) == len(store.documents(domain, "train"))
    records = read_records(folder / "records.jsonl")
    last = [r for r in records if r["kind"] == "eval" and r["step"] == spec.num_steps]
    assert last
    by_document = {
        r["domain"]: r for r in records if r["kind"] == "documents" and r["split"] == "heldout"
    }
    for record in last:
        own = by_document[record["domain"]]
        assert len(own["documents"]) == min(4, len(store.documents(record["domain"], "heldout")))
        assert sum(own["bytes"]) == record["num_bytes"]
        assert sum(own["nats"]) == pytest.approx(
            record["nats_per_token"] * record["num_tokens"], rel=1e-4
        )


def test_packed_runs_keep_their_ids_and_unpacked_ones_have_their_own(store: TokenStore) -> None:
    packed = tiny.run_spec(store)
    unpacked = replace(packed, batch=replace(packed.batch, pack=False))

    assert "pack" not in packed.canonical["batch"]
    assert unpacked.canonical["batch"]["pack"] is False
    assert packed.run_id != unpacked.run_id


def test_a_masked_model_would_read_the_padding(tmp_path: Path) -> None:
    from harness.cli import find_method
    from harness.specfile import load_ablation
    from tests.sweeps.tiny_study import SPEC

    path = tmp_path / "spec.toml"
    text = SPEC.replace("rows = 8, tokens = 16", "rows = 8, tokens = 16, pack = false")
    path.write_text(text)
    assert not load_ablation(path, (), find_method).batch.pack
    masked = 'model = { architecture = "bert", objective = "masked" }'
    path.write_text(text.replace('model = { size = "nano" }', masked))

    with pytest.raises(SpecError, match=r"batch\.pack: a masked model would read padding"):
        load_ablation(path, (), find_method)
