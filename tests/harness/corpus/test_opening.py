"""A corpus on disk: disjoint, deterministic, built once, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Loaded

import harness.corpus.sources as sources
from harness.corpus import TokenStore, build, fingerprint, open_corpus, opening, spool
from harness.corpus.documents import SPLITS, Document, in_hash_order
from harness.corpus.tokenizer import bytes_per_token, train_bpe
from harness.errors import SpecError
from harness.leases import being_made
from harness.spec import (
    Corpus,
    FilesDomain,
    HubDomain,
    PackageDomain,
    Splits,
    SyntheticDomain,
    Tokenizer,
)

SCRIPT = """
import os, signal, sys
from pathlib import Path
from harness.corpus import open_corpus
from harness.spec import Corpus, SyntheticDomain, Tokenizer

names = sys.argv[2].split(",")
spec = Corpus(
    domains={name: SyntheticDomain(seed=3, num_documents=60) for name in names},
    tokenizer=Tokenizer(vocab_size=400),
)

def progress(message):
    print(message, flush=True)
    if sys.argv[3] in message:
        os.kill(os.getpid(), signal.SIGKILL)

store = open_corpus(spec, Path(sys.argv[1]), progress)
print("opened", store.id)
print("imported", *sorted({"torch", "scipy", "datasketch", "tokenizers"} & set(sys.modules)))
"""

ONE = Corpus(
    domains={"c": SyntheticDomain(seed=3, num_documents=60)}, tokenizer=Tokenizer(vocab_size=400)
)


def start(
    repository: Path, folder: Path, names: str = "a,b", kill_at: str = "never", **environment: str
) -> subprocess.Popen[str]:
    """Open a corpus in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), names, kill_at],
        env={**os.environ, "PYTHONPATH": str(repository), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, leases apart."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.suffix != ".lease"
    }


def records(store: TokenStore) -> list[dict[str, str | int]]:
    """Read documents.jsonl as a stranger would."""
    return [
        json.loads(line) for line in (store.folder / "documents.jsonl").read_text().splitlines()
    ]


def test_no_document_is_in_two_splits_or_domains(small: TokenStore) -> None:
    """Read independently from documents.jsonl: each hash once, every split filled."""
    entries = records(small)

    assert max(Counter(entry["sha256"] for entry in entries).values()) == 1
    assert {(entry["domain"], entry["split"]) for entry in entries} == {
        (domain, split) for domain in small.domains for split in SPLITS
    }


def test_streams_hold_the_documents_that_are_listed(small: TokenStore) -> None:
    """Each document, decoded from its place, has the listed hash, bytes and tokens."""
    tokenizer = Loaded.from_file(str(small.folder / "tokenizer.json"))
    for domain in small.domains:
        for split in SPLITS:
            listed = [e for e in records(small) if (e["domain"], e["split"]) == (domain, split)]
            stream = np.load(small.folder / f"{domain}.{split}.tokens.npy")
            pieces = np.split(stream, small.documents(domain, split)[1:])

            assert len(pieces) == len(listed)
            for piece, entry in zip(pieces, listed, strict=True):
                text = tokenizer.decode(piece[:-1].tolist()).encode()
                assert sha256(text).hexdigest() == entry["sha256"]
                assert bytes_per_token(tokenizer)[piece].sum() == len(text) == entry["bytes"]
                assert len(piece) == entry["tokens"]


def test_rows_cover_the_stream_with_each_token_a_target_once(small: TokenStore) -> None:
    """Targets of all rows in order are the stream less its first token and a short rest."""
    stream = small.stream("a", "train").astype(np.int64)
    count = small.num_rows("a", "train", 32)

    rows = small.rows("a", "train", np.arange(count), 32)

    assert rows.shape == (count, 33)
    assert rows.dtype == np.int64
    assert rows[:, 1:].ravel().tolist() == stream[1 : count * 32 + 1].tolist()
    assert len(stream) - 1 - count * 32 < 32
    for outside in (-1, count):
        with pytest.raises(IndexError):
            small.rows("a", "train", np.array([outside]), 32)


def test_trained_domains_come_first_by_name(small: TokenStore, small_spec: Corpus) -> None:
    """The order of domains is independent of the order of keys, and so is the id."""
    assert small.domains == ("a", "b", "0-probe-only")
    assert small.trained == ("a", "b")
    turned = replace(small_spec, domains=dict(reversed(small_spec.domains.items())))
    assert open_corpus(turned, small.folder.parent).id == small.id


def test_the_manifest_adds_up(small: TokenStore) -> None:
    """Counts per split are those of documents.jsonl and of the streams."""
    for domain, facts in small.manifest["domains"].items():
        for split, counts in facts["splits"].items():
            mine = [e for e in records(small) if (e["domain"], e["split"]) == (domain, split)]
            assert counts["documents"] == len(mine)
            assert counts["groups"] == len({entry["group"] for entry in mine})
            assert counts["bytes"] == sum(int(entry["bytes"]) for entry in mine)
            assert counts["tokens"] == sum(int(entry["tokens"]) for entry in mine)


@pytest.mark.parametrize(
    "change",
    [
        {"splits": Splits(heldout=0.2)},
        {"tokenizer": Tokenizer(vocab_size=500)},
        {"domains": {"a": SyntheticDomain(seed=9, num_documents=60)}},
    ],
)
def test_another_spec_is_another_corpus(
    small: TokenStore, small_spec: Corpus, change: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever decides tokens is in the id."""
    assert open_corpus(replace(small_spec, **change), tmp_path).id != small.id


def test_a_corpus_whose_groups_could_be_torn_is_another_than_one_with_whole_groups(
    tmp_path: Path,
) -> None:
    """Folders of before are found by nobody who names a group; those of others are."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"text": "a", "book": "b"}) + "\n")

    def facts(group: str | None) -> set[str]:
        domain = FilesDomain(paths=(str(path),), group=group)
        spec = replace(ONE, domains={"own": domain})
        return set(opening._identity(spec, opening._sources(spec)))

    assert facts("book") - facts(None) == {"groups"}


def test_a_finished_corpus_reads_no_text(
    small: TokenStore, small_spec: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start finds the folder and calls no reader."""

    def read(*_: object) -> Iterator[object]:
        raise AssertionError("text was read")

    monkeypatch.setattr(sources.synthetic, "read", read)
    messages: list[str] = []

    again = open_corpus(small_spec, small.folder.parent, messages.append)

    assert again.id == small.id
    assert messages == []


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a folder that one process has built a corpus in."""
    folder = tmp_path_factory.mktemp("clean")
    process = start(repository, folder, "a,b", PYTHONHASHSEED="1", RAYON_NUM_THREADS="1")
    assert process.wait() == 0
    return folder


def test_building_is_deterministic(clean: Path, tmp_path: Path, repository: Path) -> None:
    """Another hash seed, thread count and key order give the same bytes in every file."""
    process = start(repository, tmp_path, "b,a", PYTHONHASHSEED="2", RAYON_NUM_THREADS="2")
    assert process.wait() == 0

    assert files(tmp_path) == files(clean)


def test_opening_imports_nothing_that_builds(clean: Path, repository: Path) -> None:
    """A process that finds the corpus imports no tokenizer, no MinHash and no torch."""
    printed, _ = start(repository, clean).communicate()

    assert printed.splitlines()[1:] == ["imported"]


def test_two_builders_do_the_work_once(clean: Path, tmp_path: Path, repository: Path) -> None:
    """The second waits for the first and opens its result."""
    both = [start(repository, tmp_path), start(repository, tmp_path)]
    printed = [process.communicate()[0] for process in both]

    assert sum("corpus: reading a (synthetic-1)" in text for text in printed) == 1
    assert sum("opened" in text for text in printed) == 2
    assert files(tmp_path) == files(clean)


def test_a_second_builder_says_that_it_waits(tmp_path: Path, repository: Path) -> None:
    """While another process holds the lease nothing is built; then it is."""
    name = open_corpus(ONE, tmp_path / "elsewhere").id
    with being_made(tmp_path / name):
        process = start(repository, tmp_path, "c")
        assert process.stdout is not None
        assert "waiting for another process" in process.stdout.readline()
        assert not (tmp_path / name).exists()
    printed, _ = process.communicate()

    assert f"opened {name}" in printed


def test_a_killed_build_is_not_mistaken_for_a_corpus(
    clean: Path, tmp_path: Path, repository: Path
) -> None:
    """SIGKILL while writing leaves a part that the next start removes and builds again."""
    killed = start(repository, tmp_path, kill_at="encoding")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path.is_dir() and path.suffix != ".lease"]
    assert left
    assert all(".part-" in path.name for path in left)

    again = start(repository, tmp_path)
    again.communicate()

    assert again.returncode == 0
    assert files(tmp_path) == files(clean)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """Three documents cannot fill four splits: one line, and an empty folder, leases apart."""
    spec = Corpus(domains={"tiny": SyntheticDomain(num_documents=3)})

    with pytest.raises(SpecError, match=r"domains\.tiny: .* max_bytes"):
        open_corpus(spec, tmp_path)
    assert files(tmp_path) == {}
    assert all(path.suffix == ".lease" for path in tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_files_that_change_while_they_are_read_make_no_corpus(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name would be that of other text."""
    path = tmp_path / "own" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"text": f"{i} words of text"}) + "\n" for i in range(400)))
    of_hub = HubDomain(dataset=str(path.parent))
    domain = of_hub if kind == "hub" else FilesDomain(paths=(str(path),))
    spec = replace(ONE, domains={"own": domain})
    whole = build.build

    def grow(*arguments: Any) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"text": "one more"}) + "\n")
        whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(build, "build", grow)
        with pytest.raises(SpecError, match="own: its files changed while they were read"):
            open_corpus(spec, tmp_path / "corpora")

    assert not list((tmp_path / "corpora").glob("*/manifest.json"))
    assert open_corpus(spec, tmp_path / "corpora").trained == ("own",)


def test_a_damaged_corpus_is_refused(tmp_path: Path) -> None:
    """A stream that lost its end is an error that says what to delete."""
    spec = Corpus(
        domains={"a": SyntheticDomain(num_documents=30)}, tokenizer=Tokenizer(vocab_size=400)
    )
    folder = open_corpus(spec, tmp_path).folder
    stream = folder / "a.train.tokens.npy"
    stream.write_bytes(stream.read_bytes()[:-10])

    with pytest.raises(SpecError, match=f"delete {folder}"):
        open_corpus(spec, tmp_path)


def test_a_large_vocabulary_gets_wider_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 65,535 tokens a stream is uint32, below it is uint16."""
    monkeypatch.setattr("harness.corpus.token_stream.WIDEST_UINT16", 300)
    spec = Corpus(
        domains={"a": SyntheticDomain(num_documents=30)}, tokenizer=Tokenizer(vocab_size=400)
    )

    folder = open_corpus(spec, tmp_path).folder

    assert np.load(folder / "a.probe.tokens.npy").dtype == np.uint32


def test_fingerprint_names_versions_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there is one line with the command that brings it."""
    spec = Corpus(domains={"a": SyntheticDomain(), "law": PackageDomain(package="cwe2")})

    def distribution(name: str) -> object:
        raise PackageNotFoundError(name)

    assert fingerprint(replace(spec, domains={"a": SyntheticDomain()})) == {"a": "synthetic-1"}
    monkeypatch.setattr(sources, "distribution", distribution)
    with pytest.raises(SpecError, match=r"domains\.law\.package: cwe2 is not installed; pip inst"):
        fingerprint(spec)


def test_a_disk_that_fills_while_reading_is_no_fault_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own error, where; nothing is left behind, and the same call goes on."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "write", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            open_corpus(ONE, tmp_path)

    assert not isinstance(caught.value, SpecError)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lease"] == []
    assert open_corpus(ONE, tmp_path).folder.exists()


def test_merges_are_learned_from_a_fair_sample_of_much_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many bytes in the order of the hash, rounded up to a document; all if they are fewer."""
    documents = [Document(f"d{i}", f"g{i}", "x" * 10) for i in range(9)]
    some = build._some(documents, 35)

    assert some == in_hash_order(documents)[:4]
    assert build._some(documents, 90) is documents
    monkeypatch.setattr(build, "LEARNED_FROM", 2000)
    learned = []
    monkeypatch.setattr(
        build, "train_bpe", lambda texts, size: learned.extend(texts) or train_bpe(texts, size)
    )
    open_corpus(ONE, tmp_path)
    assert 2000 <= sum(map(len, learned)) < 4000
