"""Bad data through the command line: one clear line, exit 2, and nothing has been trained.

Each row of the table makes the mistake with real files and names what the line has to say: the
key, the file or the value, and the fix.
"""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import harness.labor
from harness.cli import main
from harness.corpus.sources import streams

WORDS = ["quick", "brown", "fox", "jumps", "lazy", "dog", "seven", "wizards", "quietly", "box"]
HEAD = """
name = "bad"
target = "ok"
seeds = [0]
baseline = "uniform"
device = "cpu"
precision = "float32"
threads = 1
tokenizer = { vocab_size = 300 }
batch = { rows = 2, tokens = 16 }
budget = { steps = 2 }
[arms.uniform]
method = "static"
[domains.ok]
kind = "synthetic"
num_documents = 40
"""


def prose(seed: int) -> str:
    """Return a text unlike that of any other seed."""
    return " ".join(f"{WORDS[(seed * 7 + i * i) % len(WORDS)]}{seed}x{i}" for i in range(30))


def rows(count: int = 12, **more: Any) -> str:
    """Return JSON lines with a question and an answer."""
    texts = ({"question": prose(i), "answer": prose(i + 99), **more} for i in range(count))
    return "".join(json.dumps(values) + "\n" for values in texts)


@dataclass(frozen=True)
class Bad:
    """A mistake: the files, the keys of the domain `mine`, and what the line must contain."""

    keys: str
    says: tuple[str, ...]
    make: Callable[[Path], object] = lambda folder: None
    more: str = ""


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return a function that writes one file."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def both(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a function that calls all of them."""
    return lambda folder: [make(folder) for make in makers]


def parquet(folder: Path) -> None:
    """Write a table of two columns, in the right format."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"story": [prose(i) for i in range(9)], "n": list(range(9))})
    parquet.write_table(table, folder / "a.parquet")


def twins(folder: Path) -> None:
    """Write a table with two columns of one name."""
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array([prose(i + first) for i in range(9)]) for first in (0, 50)]
    table = pyarrow.Table.from_arrays(columns, names=["text", "text"])
    parquet.write_table(table, folder / "a.parquet")


def table(folder: Path) -> None:
    """Write a table whose third row has a field too few."""
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "n"], [prose(1), 1], [prose(2), 2], [prose(3)]])


JSONL = 'paths = ["a.jsonl"]\ntext = "answer"'
TXT = 'paths = ["a.txt"]'
LATIN = ("word " * 30_000).encode() + "caf\u00e9".encode("latin-1") + b" end\n"
CUT = gzip.compress(os.urandom(50_000).hex().encode())[:30_000]
SPLIT = 'splits = { train = ["a.jsonl"], heldout = ["b.jsonl"] }\ntext = "answer"'
QUESTION = 'template = "Q: {question}"'

CASES = {
    "no-such-file": Bad(
        'paths = ["a.jsnol"]\ntext = "answer"',
        ("domains.mine.paths: a.jsnol: no such file", "did you mean 'a.jsonl'?"),
        write("a.jsonl", rows()),
    ),
    "empty-file": Bad(TXT, ("mine.paths: a.txt is empty", "remove"), write("a.txt", "")),
    "blank-file": Bad(
        TXT, ("mine.paths: a.txt holds no text", "fill it"), write("a.txt", " \n" * 9)
    ),
    "blank-rows": Bad(
        JSONL,
        ("domains.mine: all 12 documents are blank", "give it text"),
        write("a.jsonl", '{"answer": " "}\n' * 12),
    ),
    "empty-once-decompressed": Bad(
        'paths = ["a.jsonl.gz"]',
        ("mine.paths: a.jsonl.gz holds no text",),
        write("a.jsonl.gz", gzip.compress(b"")),
    ),
    "wrong-column": Bad(
        'paths = ["a.jsonl"]\ntext = "anwser"',
        ("mine.text: a.jsonl:1 has no column 'anwser'", "'question'", "did you mean 'answer'?"),
        write("a.jsonl", rows()),
    ),
    "no-text-column": Bad(
        'paths = ["a.jsonl"]',
        ("mine.text: a.jsonl:1 has no column 'text' but 'question', 'answer'", "name one"),
        write("a.jsonl", rows()),
    ),
    "wrong-column-of-parquet": Bad(
        'paths = ["a.parquet"]\ntext = "storys"',
        ("mine.text: a.parquet, row 1 has no column 'storys' but 'story', 'n'", "did you mean"),
        parquet,
    ),
    "number-for-text": Bad(
        'paths = ["a.parquet"]\ntext = "n"',
        ("mine.text: a.parquet, row 1", "'n' is int 0 where text is due", "another column"),
        parquet,
    ),
    "null-for-text": Bad(
        JSONL,
        ("mine.text: a.jsonl:13", "is null where text is due", "remove or correct the row"),
        write("a.jsonl", rows() + '{"question": "q", "answer": null}\n'),
    ),
    "half-a-character": Bad(
        JSONL,
        ("mine.text: a.jsonl:13 holds half of a surrogate pair", "repair the text"),
        write("a.jsonl", rows() + '{"question": "q", "answer": "\\ud800"}\n'),
    ),
    "half-a-character-in-a-group": Bad(
        f'{JSONL}\ngroup = "question"',
        ("mine.text: a.jsonl:13 holds half of a surrogate pair", "repair the text"),
        write("a.jsonl", rows() + '{"question": "\\ud800", "answer": "a"}\n'),
    ),
    "template-with-absent-column": Bad(
        'paths = ["a.jsonl"]\ntemplate = "{question} {reply}"',
        ("mine.template: a.jsonl:1 has no column 'reply'", "'answer'"),
        write("a.jsonl", rows()),
    ),
    "template-without-column": Bad(
        'paths = ["a.jsonl"]\ntemplate = "question"',
        ("mine.template: 'question' names no column", "{question}"),
        write("a.jsonl", rows()),
    ),
    "template-with-one-brace": Bad(
        'paths = ["a.jsonl"]\ntemplate = "{question} }"',
        ("mine.template", "single '}'", "'}}'"),
        write("a.jsonl", rows()),
    ),
    "group-column-missing": Bad(
        f'{JSONL}\ngroup = "book"',
        ("mine.group: a.jsonl:1 has no column 'book'", "'answer'"),
        write("a.jsonl", rows()),
    ),
    "too-few-groups-to-keep-whole": Bad(
        f'{JSONL}\ngroup = "book"',
        ("mine.group: 'book' has 1 value, and to keep each in a split takes 12", "drop group"),
        write("a.jsonl", rows(40, book="one")),
    ),
    "one-document": Bad(
        TXT,
        ("mine.paths: a.txt gives 1 document in all", "set separator"),
        write("a.txt", prose(1)),
    ),
    "three-documents": Bad(
        JSONL, ("mine.paths: a.jsonl gives 3 documents", "add files"), write("a.jsonl", rows(3))
    ),
    "binary-file": Bad(
        TXT, ("mine.paths: a.txt is binary", "remove it"), write("a.txt", b"MZ\x90\0\3" * 99)
    ),
    "one-endless-line": Bad(
        JSONL,
        ("mine.paths: a.jsonl, line 13, is longer than 5,000 characters", "break it"),
        write("a.jsonl", rows() + "x" * 6000),
    ),
    "mixed-encodings": Bad(
        TXT,
        ("mine.encoding: a.txt: byte 150,003 (0xe9", "is not utf-8", 'set encoding (such as "lat'),
        write("a.txt", LATIN),
    ),
    "unknown-encoding": Bad(
        f'{TXT}\nencoding = "utf-9"',
        ("mine.encoding: 'utf-9' is no encoding", '"utf-8"'),
        write("a.txt", prose(1)),
    ),
    "encoding-of-no-text": Bad(
        f'{TXT}\nencoding = "hex"',
        ("mine.encoding: 'hex' is no encoding of text", '"utf-8"'),
        write("a.txt", prose(1)),
    ),
    "encoding-whose-mark-is-missing": Bad(
        f'{TXT}\nencoding = "utf-16"',
        ("mine.encoding: a.txt is not utf-16", "BOM", "set encoding"),
        write("a.txt", prose(1)),
    ),
    "home-of-nobody": Bad(
        'paths = ["~nobody-at-all/a.txt"]',
        ("mine.paths: ~nobody-at-all/a.txt: no such file", "there is no folder ~nobody-at-all"),
    ),
    "no-permission": Bad(
        'paths = ["secret.txt"]',
        ("mine.paths: secret.txt cannot be read: Permission denied", "chmod u+r secret.txt"),
        write("secret.txt", prose(1)),
    ),
    "folder-without-text": Bad(
        'paths = ["."]',
        ("mine.paths: the folder . has no file that can be read but .png", ".jsonl"),
        write("a.png", b"png"),
    ),
    "glob-without-match": Bad(
        'paths = ["*.jsonl"]', ("mine.paths: no file matches '*.jsonl'", "correct the pattern")
    ),
    "unknown-suffix": Bad(
        'paths = ["a.json"]',
        ("mine.format: a.json does not tell its format", "one object per line is jsonl"),
        write("a.json", "[]"),
    ),
    "malformed-json": Bad(
        JSONL,
        ("mine.paths: a.jsonl:13 is no JSON", "correct the line"),
        write("a.jsonl", rows() + '{"question": \n'),
    ),
    "json-that-is-no-object": Bad(
        JSONL, ("mine.paths: a.jsonl:13 is a JSON list",), write("a.jsonl", rows() + "[1]\n")
    ),
    "ragged-csv": Bad(
        'paths = ["a.csv"]',
        ("mine.paths: a.csv, row 3, has 1 fields", "names 2 columns", "quote"),
        table,
    ),
    "two-columns-of-one-name-in-csv": Bad(
        'paths = ["a.csv"]',
        ("mine.paths: a.csv has two columns 'text'", "rename one"),
        write("a.csv", "text,text\na,b\n"),
    ),
    "two-columns-of-one-name-in-parquet": Bad(
        'paths = ["a.parquet"]',
        ("mine.paths: a.parquet has two columns 'text'", "rename one"),
        twins,
    ),
    "bad-regex": Bad(
        f'{TXT}\nseparator = "(\\n"',
        ("mine.separator: '(\\n' is no regular expression", "correct it"),
        write("a.txt", prose(1)),
    ),
    "separator-of-nothing": Bad(
        f'{TXT}\nseparator = "x*"', ("mine.separator", "matches the empty"), write("a.txt", "a")
    ),
    "separator-without-text-files": Bad(
        f'{JSONL}\nseparator = "x"',
        ("mine.separator: cuts text files, and there is none",),
        write("a.jsonl", rows()),
    ),
    "truncated-gz": Bad(
        'paths = ["a.txt.gz"]',
        ("mine.paths: a.txt.gz is cut short", "copy or compress it again"),
        write("a.txt.gz", CUT),
    ),
    "truncated-zst": Bad(
        'paths = ["a.txt.zst"]',
        ("mine.paths: a.txt.zst is cut short", "copy or compress it again"),
        lambda folder: (folder / "a.txt.zst").write_bytes(zst(os.urandom(50_000).hex())[:30_000]),
    ),
    "bad-parquet": Bad(
        'paths = ["a.parquet"]',
        ("mine.paths: a.parquet is no parquet file", "set format"),
        write("a.parquet", "no table at all"),
    ),
    "same-file-in-two-splits": Bad(
        'splits = { train = ["*.jsonl"], heldout = ["./b.jsonl"] }\ntext = "answer"',
        ("mine.splits.heldout: b.jsonl is also in splits.train", "remove it"),
        both(write("a.jsonl", rows()), write("b.jsonl", rows(5))),
    ),
    "a-copy-in-two-splits": Bad(
        SPLIT,
        ("mine.splits.heldout: b.jsonl is a copy of a.jsonl in splits.train", "remove one"),
        both(write("a.jsonl", rows()), write("b.jsonl", rows())),
    ),
    "a-group-in-two-splits": Bad(
        f'{SPLIT}\ngroup = "g"',
        ("mine.group: 'one' is in the ready splits train", "b.jsonl:1", "drop group"),
        both(write("a.jsonl", rows(g="one")), write("b.jsonl", rows(5, g="one"))),
    ),
    "no-train-to-cut-from": Bad(
        'train = false\nsplits = { heldout = ["a.jsonl"] }\ntext = "answer"',
        ("mine.splits: probe and tuning lack", "no train to cut them from"),
        write("a.jsonl", rows()),
    ),
    "duplicate-domain": Bad(
        JSONL,
        ("domains.twin.paths: reads the same text as domains.mine", "remove one"),
        write("a.jsonl", rows()),
        more='[domains.twin]\nkind = "files"\npaths = ["./*.jsonl"]\ntext = "answer"\n',
    ),
    "paths-and-splits": Bad(
        f'{TXT}\nsplits = {{ train = ["a.txt"] }}', ("mine", "exactly one of paths and splits")
    ),
    "half-a-prompt": Bad(
        'paths = ["a.jsonl"]\nprompt = "{question}"', ("mine", "prompt and answer belong together")
    ),
    "hub-without-network": Bad(
        'kind = "hub"\ndataset = "someone/something"',
        ("mine.dataset: 'someone/something'", "HF_HUB_OFFLINE is set", 'kind = "files"'),
    ),
    "hub-name-that-is-none": Bad(
        'kind = "hub"\ndataset = "./no such/folder"',
        ("mine.dataset: './no such/folder' is no folder here", "owner/name"),
    ),
    "hub-folder-in-the-home-of-nobody": Bad(
        'kind = "hub"\ndataset = "~nobody-at-all/a"',
        ("mine.dataset: '~nobody-at-all/a' is no folder here", "owner/name"),
    ),
    "hub-stream-without-end": Bad(
        'kind = "hub"\ndataset = "someone/something"\nstreaming = true',
        ("mine", "max_rows is missing", "set it"),
    ),
    "hub-splits-that-are-one": Bad(
        'kind = "hub"\ndataset = "."\nsplits = { train = "train", heldout = "train" }',
        ("mine.splits.heldout: 'train' is also splits.train",),
        write("train.jsonl", rows()),
    ),
}


def zst(text: str | bytes) -> bytes:
    """Return a text compressed by zstd."""
    import pyarrow

    raw = text.encode() if isinstance(text, str) else text
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return bytes(sink.getvalue())


class NoGrid:
    """Stands where worker processes would start."""

    def __init__(self, *_: object) -> None:
        """Start none."""

    def warm_up(self) -> None:
        """Import nothing."""

    def run(self, *_: object) -> bool:
        """Fail the test: it came to training."""
        raise AssertionError("bad input was trained on")

    def close(self) -> None:
        """End none."""


@pytest.fixture
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one file unreadable, also where the tests run as root, whom chmod does not stop."""
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.name == "secret.txt" and "w" not in str(more.get("mode", arguments)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.usefixtures("_refused")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_gets_one_clear_line(
    case: Bad,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 2, one line with what, where and the fix, no traceback and no run."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.chdir(data)
    monkeypatch.setattr(harness.labor, "Grid", NoGrid)
    if case is CASES["one-endless-line"]:
        monkeypatch.setattr(streams, "MAX_LINE_CHARACTERS", 5000)  # 64 million take a while
    case.make(data)
    kind = "" if "kind" in case.keys else 'kind = "files"\n'
    (tmp_path / "bad.toml").write_text(f"{HEAD}[domains.mine]\n{kind}{case.keys}\n{case.more}")

    status = main(["run", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "out")])

    printed = capsys.readouterr().err
    assert status == 2, printed
    assert printed.count("\n") == 1, printed
    assert printed.startswith("steelyard: ")
    assert "Traceback" not in printed
    for part in case.says:
        assert part in printed
    assert not (tmp_path / "out" / "runs").exists()
    assert not list((tmp_path / "out").glob("corpora/*/manifest.json"))


def test_there_are_at_least_twenty() -> None:
    """The issue asks for so many."""
    assert len(CASES) >= 20
