"""A source that is read with bounded memory keeps what it would if it were held whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.corpus.bounded import read_capped
from harness.corpus.documents import Document, hash_key
from harness.corpus.sources import Source
from harness.corpus.splitting import cap
from harness.corpus.spool import Spool

WORDS = st.text("ab ", max_size=40)
SPLITS = st.sampled_from([None, "train", "heldout"])
DESCRIBED = st.lists(st.tuples(st.integers(0, 12), WORDS, SPLITS), max_size=60)


@given(DESCRIBED, st.integers(1, 400), st.booleans())
@settings(deadline=None, max_examples=400)
def test_what_is_kept_is_what_the_cap_keeps_of_everything(
    described: list[tuple[int, str, str | None]], max_bytes: int, is_ready: bool
) -> None:
    documents = [
        Document(f"d{n}", f"g{group}", text, split if is_ready else None)
        for n, (group, text, split) in enumerate(described)
    ]
    whole = [document for document in documents if document.text.strip()]

    with Spool() as spool:
        read = read_capped(Source("test-1", "none", lambda: iter(documents)), max_bytes, spool)
        kept = [(document.name, document.text) for document in read.kept]

    assert kept == [(document.name, document.text) for document in cap(whole, max_bytes)]
    assert (read.num_read, read.num_blank) == (len(documents), len(documents) - len(whole))


def test_a_group_that_turns_out_to_begin_shorter_makes_room_again() -> None:
    """What had been let go when the group's first document seemed long is read once more."""
    group, other = sorted(("a", "b"), key=hash_key)
    short, long = sorted(("1", "2"), key=hash_key)
    documents = [
        Document(long, group, "x" * 240),
        Document("3", other, "y" * 100),
        Document(short, group, "z"),
    ]

    with Spool() as spool:
        read = read_capped(Source("test-1", "none", lambda: iter(documents)), 240, spool)

        assert [d.name for d in read.kept] == [d.name for d in cap(documents, 240)]
        assert documents[1].name in [d.name for d in read.kept]
        assert spool.size == sum(d.num_bytes for d in documents)  # once, though it was read twice


@pytest.mark.parametrize("groups", [20_000, 5])
def test_a_long_stream_is_never_held(groups: int) -> None:
    """60 MB go by; what is kept is 200 kB, and of each of few groups no more than that is held."""

    def stream() -> Iterator[Document]:
        for n in range(20_000):
            yield Document(f"row {n}", f"group {n % groups}", f"{n} " + "word " * 600)

    with Spool() as spool:
        tracemalloc.start()
        read = read_capped(Source("test-1", "none", stream), 200_000, spool)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        on_disk = spool.size

    assert read.num_read == 20_000
    assert on_disk < 12_000_000  # what came in and had to go again is there too
    assert 200_000 <= sum(document.num_bytes for document in read.kept) < 204_000
    assert peak < 6_000_000
