"""Files: every format and compression gives the same text, and no path decides anything."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.corpus import corpus_id, open_corpus
from harness.corpus.documents import Document
from harness.corpus.sources import find_source, formats, separators
from harness.spec import Corpus, FilesDomain, Normalization, SyntheticDomain, Tokenizer
from tests.harness.corpus.test_bad_inputs import prose, zst

TEXTS = [f'{prose(i)}, "quoted"\nand a second line' for i in range(30)]


def read(**keys: Any) -> list[Document]:
    """Return the documents of a domain."""
    return list(find_source("d", FilesDomain(**keys)).read())


def jsonl(texts: list[str] = TEXTS, **more: Any) -> bytes:
    """Return JSON lines."""
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts).encode()


def separated(delimiter: str) -> bytes:
    """Return a table with quotes and line breaks in its fields."""
    file = io.StringIO(newline="")
    rows = [["n", "text"], *([i, text] for i, text in enumerate(TEXTS))]
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode()


def parquet() -> bytes:
    """Return a table of Arrow's."""
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"n": [0] * len(TEXTS), "text": TEXTS}), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {
    "jsonl": jsonl,
    "csv": lambda: separated(","),
    "tsv": lambda: separated("\t"),
    "parquet": parquet,
    "txt": lambda: "\n\n\n".join(TEXTS).encode(),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".zst": lambda raw: zst(raw),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_texts(tmp_path: Path, format: str, compression: str) -> None:
    """In their order, each named by file and row."""
    path = tmp_path / f"a.{format}{compression}"
    path.write_bytes(COMPRESSIONS[compression](FORMATS[format]()))

    documents = read(paths=(str(path),), separator="\n\n\n" if format == "txt" else None)

    assert [document.text for document in documents] == TEXTS
    assert [d.name for d in documents] == [f"{path.name}:{i + 1}" for i in range(len(TEXTS))]
    assert [d.group for d in documents] == [d.name for d in documents]


def test_a_text_file_is_one_document_unless_it_is_cut(tmp_path: Path) -> None:
    """A folder of them, hidden ones and other kinds apart; line ends become one kind."""
    for i in range(5):
        (tmp_path / f"{i}.txt").write_bytes(prose(i).encode() + b"\r\nend\r\n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\0")

    documents = read(paths=(str(tmp_path),))

    assert [d.name for d in documents] == [f"{i}.txt" for i in range(5)]
    assert documents[3].text == f"{prose(3)}\nend\n"


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    """File systems take any bytes; the document's name spells them."""
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(jsonl())

    assert read(paths=(str(tmp_path),))[0].name == "caf\\xe9.jsonl:1"


def test_a_file_that_two_patterns_match_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever path or link; `**` looks into folders, `~` is the home folder."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(jsonl())
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in" / "a.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    documents = read(paths=("**/*.jsonl", "in", "~/in/a.jsonl", "in/../in/a.jsonl"))

    assert len(documents) == len(TEXTS)


def test_templates_groups_and_numbers(tmp_path: Path) -> None:
    """Braces, a number in a template, and a group that is a number."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"q": "{prose(i)}", "n": {i}, "b": {i % 2}}}\n' for i in range(8)))

    documents = read(paths=(str(path),), template="{{{q}}} is { n }", group="b")

    assert documents[3].text == f"{{{prose(3)}}} is 3"
    assert [d.group for d in documents] == ["0", "1"] * 4


def test_what_is_read_is_normalized_and_a_template_is_not(tmp_path: Path) -> None:
    """The words of a prompt stay as written, and so does the space before the answer."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"q": "  WHY {i} ", "a": " BECAUSE "}}\n' for i in range(8)))

    document = read(
        paths=(str(path),),
        prompt="Question: {q}\nAnswer:",
        answer=" {a}",
        normalize=Normalization(whitespace="strip", case="lower"),
    )[2]

    assert document.text == "Question: why 2\nAnswer: because"
    assert document.text[document.prompt_chars :] == " because"


def test_a_mark_and_another_encoding(tmp_path: Path) -> None:
    """What Excel and others write before UTF-8, and a whole file in UTF-16."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + separated(","))
    (tmp_path / "b.csv").write_bytes(separated(",").decode().encode("utf-16"))

    assert len(read(paths=(str(tmp_path / "a.csv"),))) == len(TEXTS)
    wide = read(paths=(str(tmp_path / "b.csv"),), encoding="utf-16")
    assert [d.text for d in wide] == TEXTS


def spec(folder: Path, **changes: Any) -> Corpus:
    """Return a corpus of two files in a folder, and a synthetic domain."""
    ready = {"train": (str(folder / "train.jsonl"),), "heldout": (str(folder / "x" / "*.jsonl"),)}
    domains = {
        "own": replace(FilesDomain(splits=ready), **changes),  # type: ignore[arg-type]
        "s": SyntheticDomain(num_documents=40),
    }
    return Corpus(domains=domains, tokenizer=Tokenizer(vocab_size=400))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a train and a held-out file."""
    (tmp_path / "data" / "x").mkdir(parents=True)
    (tmp_path / "data" / "train.jsonl").write_bytes(jsonl(TEXTS[:24]))
    (tmp_path / "data" / "x" / "test.jsonl").write_bytes(jsonl(TEXTS[24:]))
    return tmp_path / "data"


def test_equal_text_is_one_corpus_wherever_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved, or named from another working directory: the same id, and the same bytes if built."""
    moved = shutil.copytree(folder, tmp_path / "somewhere" / "else")
    monkeypatch.chdir(tmp_path)
    first = open_corpus(spec(folder), tmp_path / "one")
    second = open_corpus(spec(moved), tmp_path / "two")

    assert first.id == second.id == corpus_id(spec(folder.relative_to(tmp_path)))
    for path in sorted(first.folder.iterdir()):
        assert path.read_bytes() == (second.folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "train.jsonl").write_bytes(jsonl(TEXTS[:23])),
        lambda folder: (folder / "train.jsonl").rename(folder / "train.2.jsonl"),
        lambda folder: (folder / "x" / "more.jsonl").write_bytes(jsonl(TEXTS[:1])),
    ],
    ids=["edited", "renamed", "added"],
)
def test_other_text_is_another_corpus(folder: Path, change: Callable[[Path], Any]) -> None:
    """An edited, a renamed and an added file."""
    before = corpus_id(spec(folder))
    change(folder)
    ready = {"train": (str(folder / "train*.jsonl"),), "heldout": (str(folder / "x" / "*.jsonl"),)}

    assert corpus_id(spec(folder, splits=ready)) != before


def test_ready_splits_are_kept_and_the_manifest_tells_of_the_files(
    folder: Path, tmp_path: Path
) -> None:
    """Held-out is the whole ready file; probe and tuning come out of train."""
    change = {"license": "MIT", "normalize": Normalization(case="lower")}
    store = open_corpus(spec(folder, **change), tmp_path / "corpora")
    facts = store.manifest["domains"]["own"]
    listed = [
        json.loads(line) for line in (store.folder / "documents.jsonl").read_text().splitlines()
    ]
    names = {s: [e["name"] for e in listed if (e["domain"], e["split"]) == ("own", s)]
             for s in facts["splits"]}  # fmt: skip

    assert sorted(names["heldout"]) == [f"x/test.jsonl:{i}" for i in range(1, 7)]
    assert all(
        name.startswith("train.jsonl") for s in ("train", "probe", "tuning") for name in names[s]
    )
    assert all(names.values())
    sizes = [(folder / name).stat().st_size for name in ("train.jsonl", "x/test.jsonl")]
    assert (facts["files"]["count"], facts["files"]["bytes"]) == (2, sum(sizes))
    assert len(facts["files"]["sha256"]) == 64
    assert facts["files"]["formats"] == ["jsonl"]
    assert (facts["license"], facts["normalize"]["case"]) == ("MIT", "lower")
    assert not [p for p in store.folder.glob("manifest.json") if str(folder) in p.read_text()]


def test_two_domains_may_take_different_columns_of_one_file(tmp_path: Path) -> None:
    """That is no duplicate."""
    rows = "".join(f'{{"a": "{prose(i)}", "b": "{prose(i + 50)}"}}\n' for i in range(9))
    (tmp_path / "a.jsonl").write_text(rows)
    paths = (str(tmp_path / "a.jsonl"),)
    domains = {name: FilesDomain(paths=paths, text=name) for name in "ab"}

    assert corpus_id(Corpus(domains=domains))  # type: ignore[arg-type]


def test_reading_holds_one_row_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first document comes before the second row is parsed."""
    (tmp_path / "a.jsonl").write_bytes(jsonl())
    parsed: list[str] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))

    next(find_source("d", FilesDomain(paths=(str(tmp_path / "a.jsonl"),))).read())

    assert len(parsed) == 1
    assert os.path.getsize(tmp_path / "a.jsonl") > len(parsed[0]) * 20


def test_a_text_that_is_cut_is_read_as_far_as_its_pieces_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of any size is not held, and its pieces do not depend on how much is read at once."""
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    domain = FilesDomain(paths=(str(tmp_path / "a.txt"),), separator=r"\n\s*\n")
    whole = list(find_source("d", domain).read())
    taken: list[str] = []
    read_lines = formats.read_lines
    told = lambda *how: (taken.append(line) or line for line in read_lines(*how))  # noqa: E731
    monkeypatch.setattr(formats, "read_lines", told)
    monkeypatch.setattr(separators, "CHUNK", 100)

    documents = find_source("d", domain).read()

    assert next(documents) == whole[0]
    assert len(taken) < 9 < len(TEXTS)
    assert list(documents) == whole[1:]


@pytest.mark.parametrize("template", ["{ text}", "{text}", "{ text }"])
def test_spaces_around_a_column_in_header_or_template_do_not_hide_it(
    template: str, tmp_path: Path
) -> None:
    """The exact name first, then the one without spaces."""
    name = " text" if template == "{ text}" else "text"
    path = tmp_path / "a.csv"
    path.write_text(f"{name}\n" + "".join(f"words {i}\n" for i in range(5)))

    domain = FilesDomain(paths=(str(path),), template=template)
    documents = list(find_source("d", domain).read())

    assert sorted(d.text for d in documents) == [f"words {i}" for i in range(5)]
