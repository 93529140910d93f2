"""Splits: every document in one of them, whole groups where there are enough, sizes near target."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.corpus.documents import SPLITS, Document
from harness.corpus.splitting import MIN_GROUPS, cap, split
from harness.errors import SpecError
from harness.spec import Splits


def documents(sizes: list[tuple[int, int]]) -> list[Document]:
    """Make one document per (group, size)."""
    return [Document(f"d{i}", f"g{group}", "x" * n) for i, (group, n) in enumerate(sizes)]


SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2000)), max_size=120)


@given(SIZES, st.randoms(use_true_random=False))
def test_any_documents_are_split_into_disjoint_parts_or_refused(
    sizes: list[tuple[int, int]], shuffler: random.Random
) -> None:
    """No document is lost, doubled or divided; input order changes nothing."""
    texts = documents(sizes)
    if len(texts) < len(SPLITS):
        with pytest.raises(SpecError, match=r"domains\.d: no document is left for its"):
            split("d", texts, Splits())
        return
    placement = split("d", texts, Splits())
    shuffler.shuffle(texts)

    again = split("d", texts, Splits())

    assert again == placement
    assert sorted(p.document.name for p in placement.documents) == sorted(d.name for d in texts)
    assert {p.split for p in placement.documents} == set(SPLITS)
    if placement.unit == "group":
        places = {(p.document.group, p.split) for p in placement.documents}
        assert len(places) == len({d.group for d in texts})


def test_groups_stay_together_and_sizes_come_near_their_targets() -> None:
    """Sixty groups of uneven size: each split within half of its target, none of one group."""
    placement = split("d", documents([(i % 60, 100 + 7 * i) for i in range(600)]), Splits())

    total = sum(p.document.num_bytes for p in placement.documents)
    assert placement.unit == "group"
    for name, share in {"probe": 0.05, "tuning": 0.05, "heldout": 0.1, "train": 0.8}.items():
        inside = [p.document for p in placement.documents if p.split == name]
        assert sum(d.num_bytes for d in inside) / total == pytest.approx(share, rel=0.5)
        assert len({d.group for d in inside}) > 1


def test_few_groups_are_split_by_document() -> None:
    """Below a sane number of groups, documents are assigned one by one, and it is said."""
    placement = split("d", documents([(i % (MIN_GROUPS - 1), 500) for i in range(100)]), Splits())

    assert placement.unit == "document"


FEW = [(i % (MIN_GROUPS - 1), 500) for i in range(100)]
UNEVEN = [(max(0, i - 80), 500) for i in range(100)]  # one group of 81 documents, 19 of one


@pytest.mark.parametrize(
    ("sizes", "says"),
    [(FEW, "has 11 values, and .* takes 12"), (UNEVEN, r"has 20 values too uneven .*one is 81%")],
)
def test_groups_that_the_user_named_are_never_torn(sizes: list[tuple[int, int]], says: str) -> None:
    """They are refused where they cannot be kept whole, also where only some splits lack."""
    shares = Splits(probe=0.15, tuning=0.15, heldout=0.15)
    lacking = ready("train", sizes) + ready("heldout", [(999, 50)])

    assert split("d", documents(sizes), shares).unit == "document"
    for texts in (documents(sizes), lacking):
        with pytest.raises(SpecError, match=rf"domains\.d\.group: 'book' {says}.*; give it more"):
            split("d", texts, shares, "book")


def test_groups_of_one_document_cannot_be_torn() -> None:
    """Four files that are grouped by file are four documents."""
    texts = documents([(i, 50) for i in range(4)])

    assert split("d", texts, Splits(), "file") == split("d", texts, Splits())


def test_one_document_too_few_is_refused_with_the_counts() -> None:
    """Three documents cannot fill four splits."""
    with pytest.raises(SpecError, match=r"domains\.law: .* tuning split \(train 1, probe 1"):
        split("law", documents([(i, 50) for i in range(3)]), Splits())


@given(SIZES.filter(bool), st.integers(1, 20_000))
def test_the_cap_is_met_up_to_one_document(sizes: list[tuple[int, int]], max_bytes: int) -> None:
    """As much text is kept as was asked for, and at most one document more."""
    texts = documents(sizes)

    kept = cap(texts, max_bytes)

    total = sum(d.num_bytes for d in kept)
    whole = sum(d.num_bytes for d in texts)
    assert total >= min(max_bytes, whole)
    assert total < max_bytes + max(d.num_bytes for d in texts)
    assert set(kept) <= set(texts)


def test_the_cap_leaves_no_group_more_than_its_share() -> None:
    """One service with half of the text does not become the whole domain."""
    sizes = [(0, 100)] * 1000 + [(group, 100) for group in range(1, 51) for _ in range(20)]

    kept = cap(documents(sizes), 48_000)

    assert sum(d.num_bytes for d in kept if d.group == "g0") <= 2_000
    assert len({d.group for d in kept}) >= 24


def ready(split: str, sizes: list[tuple[int, int]]) -> list[Document]:
    """Make documents of a ready split."""
    return [
        replace(document, name=f"{split}-{document.name}", split=split)
        for document in documents(sizes)
    ]


def test_ready_splits_stay_as_they_are() -> None:
    """All four are given, and nothing is moved."""
    texts = [text for i, name in enumerate(SPLITS) for text in ready(name, [(i, 50), (i + 9, 60)])]
    placement = split("d", texts, Splits())

    assert placement.unit == "ready split"
    assert all(placed.split == placed.document.split for placed in placement.documents)
    assert len(placement.documents) == len(texts)


@given(SIZES.filter(lambda sizes: len(sizes) >= 3), st.integers(1, 30))
def test_what_lacks_is_cut_from_train(sizes: list[tuple[int, int]], held: int) -> None:
    """Never from what others hold out; no document is lost, and none doubled."""
    texts = ready("train", sizes) + ready("heldout", [(100 + i, 100) for i in range(held)])
    placement = split("d", texts, Splits())

    assert {p.split for p in placement.documents} == set(SPLITS)
    assert sorted(p.document.name for p in placement.documents) == sorted(d.name for d in texts)
    for placed in placement.documents:
        assert (placed.split == "heldout") == (placed.document.split == "heldout")
    if placement.unit == "group":
        cut = {(p.document.group, p.split) for p in placement.documents if p.split != "heldout"}
        assert len(cut) == len({group for group, _ in cut})


def test_shares_of_what_lacks_are_those_of_the_spec() -> None:
    """Of the training text: probe 5 %, tuning 5 %."""
    texts = ready("train", [(i, 100) for i in range(400)]) + ready("heldout", [(999, 50)])
    placement = split("d", texts, Splits())

    for name in ("probe", "tuning"):
        assert sum(p.split == name for p in placement.documents) == pytest.approx(20, abs=2)


def test_the_cap_keeps_the_proportions_of_ready_splits() -> None:
    """A tenth of the text is a tenth of each."""
    texts = ready("train", [(i, 100) for i in range(800)])
    texts += ready("heldout", [(1000 + i, 100) for i in range(200)])

    kept = cap(texts, 10_000)

    counts = [sum(d.split == name for d in kept) for name in ("train", "heldout")]
    assert counts == [80, 20]
