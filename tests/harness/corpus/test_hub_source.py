"""Data sets in the hub's form: local folders read for real, the hub itself by stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.corpus import corpus_id, open_corpus
from harness.corpus.documents import Document
from harness.corpus.sources import find_source, hub
from harness.errors import SpecError
from harness.spec import Corpus, HubDomain, Tokenizer
from tests.harness.corpus.test_bad_inputs import prose

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what datasets writes out of the home folder."""
    import datasets
    import huggingface_hub.constants as constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data set of three splits, as jsonl."""
    home = tmp_path / "stories"
    home.mkdir()
    for first, (split, count) in enumerate({"train": 30, "validation": 5, "test": 6}.items()):
        rows = ({"story": prose(100 * first + i), "n": i} for i in range(count))
        (home / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def read(**keys: Any) -> list[Document]:
    """Return the documents of a domain."""
    return list(find_source("d", HubDomain(**keys)).read())


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_in_the_hubs_form_is_read(folder: Path, streaming: bool) -> None:
    """One split, in its order, up to max_rows; whether streamed or not."""
    texts = read(dataset=str(folder), text="story", streaming=streaming, max_rows=7)

    assert [d.text for d in texts] == [prose(i) for i in range(7)]
    assert [d.name for d in texts][:2] == ["train:1", "train:2"]


def test_ready_splits_become_ours(folder: Path, tmp_path: Path) -> None:
    """Validation is tuning, test is held out, probe is cut from train; the manifest says it."""
    domain = HubDomain(
        dataset=str(folder),
        template="{n}: {story}",
        splits={"train": "train", "tuning": "validation", "heldout": "test"},
    )
    store = open_corpus(
        Corpus(domains={"d": domain}, tokenizer=Tokenizer(vocab_size=400)), tmp_path / "corpora"
    )
    facts = store.manifest["domains"]["d"]

    counts = {split: facts["splits"][split]["documents"] for split in facts["splits"]}
    assert (counts["tuning"], counts["heldout"], counts["train"] + counts["probe"]) == (5, 6, 30)
    assert counts["probe"] > 0
    assert facts["hub_splits"] == {"train": "train", "tuning": "validation", "heldout": "test"}
    assert facts["revision"].startswith("sha256 ")


def test_equal_folders_are_one_corpus(folder: Path, tmp_path: Path) -> None:
    """Wherever they lie; another row or another bound is another corpus."""

    def identity(where: Path, **more: Any) -> str:
        domain = HubDomain(dataset=str(where), text="story", **more)
        return corpus_id(Corpus(domains={"d": domain}))

    before = identity(folder)
    moved = folder.rename(tmp_path / "elsewhere")

    assert identity(moved) == before
    assert identity(moved, max_rows=5) != before
    with (moved / "train.jsonl").open("a") as file:
        file.write(json.dumps({"story": "one more", "n": 1}) + "\n")
    assert identity(moved) != before


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"text": "storey"}, r"d\.text: .*row 1 has no column 'storey'.* did you mean 'story'\?"),
        ({"text": "n"}, r"d\.text: .*column 'n' is int 0 where text is due"),
        ({"split": "dev"}, r"d\.split: .* has no split 'dev' but 'train', 'validation', 'test'"),
        ({"splits": {"train": "trian"}}, r"d\.splits\.train: .* has no split 'trian'"),
        ({"config": "large"}, r"d\.dataset: .*large.*; correct dataset, config or split"),
    ],
    ids=["column", "number", "split", "ready-split", "config"],
)
def test_what_a_folder_does_not_have_is_said(folder: Path, keys: dict[str, Any], says: str) -> None:
    """One line with the key, what there is, and the fix."""
    with pytest.raises(SpecError, match=says) as caught:
        read(dataset=str(folder), **{"text": "story", **keys})

    assert "\n" not in str(caught.value)


def test_a_file_whose_name_is_no_text_is_one_of_its_folder(folder: Path) -> None:
    """File systems take any bytes; the id spells them."""
    before = find_source("d", HubDomain(dataset=str(folder)))
    (folder / os.fsdecode(b"caf\xe9.md")).write_text("about")

    assert find_source("d", HubDomain(dataset=str(folder))).fingerprint != before.fingerprint


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    """Empty, or with files that datasets cannot read."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"d\.dataset: the folder .* has no file"):
        read(dataset=str(tmp_path / "empty"))

    (tmp_path / "empty" / "load.py").write_text("raise SystemExit(9)")
    with pytest.raises(SpecError, match=r"d\.dataset: .* cannot be loaded"):
        read(dataset=str(tmp_path / "empty"))


def test_no_network_is_one_line_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection: what could not be reached, and how to go on with files."""
    import huggingface_hub.constants as constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    started = time.monotonic()

    with pytest.raises(SpecError, match=rf"since {endpoint} cannot be reached .*kind = \"files\""):
        find_source("d", HubDomain(dataset="someone/something"))

    assert time.monotonic() - started < 5


def stand_in(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str, str]]:
    """Answer what is asked of the hub, or raise it; return the list of what was asked."""
    import huggingface_hub

    asked: list[tuple[str, str]] = []

    class Api:
        def dataset_info(self, dataset: str, revision: str, timeout: float) -> Any:
            assert timeout <= hub.PATIENCE_SECONDS
            asked.append((dataset, revision))
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


def test_a_branch_is_resolved_once_and_read_at_its_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it pointed to is in the fingerprint and the facts, and what is loaded."""
    import datasets

    asked = stand_in(monkeypatch, SimpleNamespace(sha=COMMIT))
    revisions: list[str] = []

    def load(path: str, *_: Any, revision: str, **__: Any) -> Any:
        revisions.append(revision)
        return datasets.Dataset.from_dict({"text": ["one", "two"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train"])
    source = find_source("d", HubDomain(dataset="someone/something", revision="v2"))
    pinned = find_source("d", HubDomain(dataset="someone/something", revision=COMMIT))

    assert [document.text for document in source.read()] == ["one", "two"]
    assert asked == [("someone/something", "v2")]
    assert revisions == [COMMIT]
    assert source.facts["revision"] == COMMIT
    assert source.fingerprint == pinned.fingerprint


def test_what_was_downloaded_before_is_used_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the hub's own library remembers what `main` was."""
    stand_in(monkeypatch, ConnectionError("no route"))
    refs = tmp_path / "hub" / "datasets--someone--something" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)

    source = find_source("d", HubDomain(dataset="someone/something"))

    assert source.facts["revision"] == COMMIT
    with pytest.raises(SpecError, match="cannot be reached"):
        find_source("d", HubDomain(dataset="someone/else"))


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the hub one that takes a connection and never answers; it knew `main` before."""
    import datasets
    import huggingface_hub.constants as constants

    refs = tmp_path / "hub" / "datasets--me--texts" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.2)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        for module, name in ((constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")):
            monkeypatch.setattr(module, name, False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield


def leave(tmp_path: Path, commit: str) -> None:
    """Write what datasets keeps of `me/texts` once it was read at a commit."""
    import datasets

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    datasets.load_dataset(str(tmp_path / "texts"))
    (made,) = (tmp_path / "datasets" / "texts").glob("*/0.0.0/*/dataset_info.json")
    kept = tmp_path / "datasets" / "me___texts" / "default" / "0.0.0" / commit
    shutil.copytree(made.parent, kept)
    about = json.loads(made.read_text()) | {"config_name": "default"}
    (kept / "dataset_info.json").write_text(json.dumps(about))


def are_online() -> bool:
    """Tell whether both libraries may use the network."""
    import datasets
    import huggingface_hub.constants as constants

    return not (datasets.config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_silent_hub_is_not_asked_again_for_what_is_here(tmp_path: Path, streaming: bool) -> None:
    """The libraries' own patience is minutes; their flags are as they were, in the end."""
    leave(tmp_path, COMMIT)
    started = time.monotonic()

    texts = read(dataset="me/texts", streaming=streaming, max_rows=9)

    assert [document.text for document in texts] == ["one", "two"]
    assert time.monotonic() - started < 20
    assert are_online()


@pytest.mark.usefixtures("silent")
def test_a_silent_hub_and_nothing_or_another_commit_here_is_one_line(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(SpecError, match=r"d\.dataset: .* cannot be reached \(.*timed out; of an"):
        read(dataset="me/texts")

    leave(tmp_path, "f" * 40)
    says = rf"d\.revision: {COMMIT} is asked for, .* here of me/texts is {'f' * 40}; set that as"
    for revision in (None, COMMIT):
        with pytest.raises(SpecError, match=says):
            read(dataset="me/texts", revision=revision)
    assert len(list(read(dataset="me/texts", revision="f" * 40))) == 2

    assert time.monotonic() - started < 20
    assert are_online()


@pytest.mark.usefixtures("silent")
def test_what_an_earlier_start_read_is_found_without_the_hubs_own_notes(tmp_path: Path) -> None:
    """Who reads at a commit, as every start of ours does, leaves no note of what `main` was."""
    shutil.rmtree(tmp_path / "hub")
    leave(tmp_path, COMMIT)

    source = find_source("d", HubDomain(dataset="me/texts"))

    assert source.facts["revision"] == COMMIT
    assert [document.text for document in source.read()] == ["one", "two"]
    assert are_online()


def test_a_broken_connection_while_reading_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback of the network's library."""
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("lost\nin the middle")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    with pytest.raises(SpecError, match=r"d\.dataset: .* \(lost in the middle\); on a machine"):
        read(dataset=str(folder), text="story")
