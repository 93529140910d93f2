"""A spec that init writes loads, says what it saw, and asks for what can be decided."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.cli import find_method
from harness.commands import glance
from harness.commands.init import write_spec
from harness.corpus.sources import find_source
from harness.errors import SpecError
from harness.spec import Ablation, FilesDomain, HubDomain
from harness.specfile import load_ablation
from reports.power import hopeless
from tests.harness.corpus.test_bad_inputs import zst

PROSE = "A sentence of some words that goes on for a while.\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(path: str, *records: dict[str, Any], times: int = 30) -> str:
    """Write records as JSON lines and return the path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in records) * times)
    return path


def draft(*paths: str, out: str = "spec.toml", **changes: Any) -> Ablation:
    """Let init write a spec for `paths`, and load it."""
    asked: dict[str, Any] = {"name": None, "target": None, "force": False, **changes}
    write_spec(paths, Path(out), **asked)
    return load_ablation(Path(out), [], find_method)


def domain(ablation: Ablation, name: str) -> FilesDomain:
    """Return a domain of files."""
    found = ablation.domains[name]
    assert isinstance(found, FilesDomain)
    return found


def other() -> str:
    """Write a second domain, since one has nothing to mix."""
    return rows("other.jsonl", {"text": PROSE})


def test_the_spec_loads_is_short_and_can_reach_a_verdict() -> None:
    math = rows("math.jsonl", {"question": "How many?", "answer": "Four."})
    Path("wiki.txt").write_text((PROSE * 3 + "\n") * 50)

    ablation = draft(math, "wiki.txt", other())

    written = Path("spec.toml").read_text().splitlines()
    plain = [line for line in written if line.strip() and not line.startswith("#")]
    assert len(plain) < 40
    assert list(ablation.domains) == ["math", "wiki", "other"]
    assert (ablation.name, ablation.target, ablation.baseline) == ("spec", "math", "uniform")
    assert set(ablation.arms) == {"uniform", "natural", "influence"}
    assert hopeless(ablation) is None
    with_doremi = Path("spec.toml").read_text().replace("# [arms.doremi]", "[arms.doremi]")
    Path("more.toml").write_text(with_doremi.replace('# method = "doremi"', 'method = "doremi"'))
    more = load_ablation(Path("more.toml"), [], find_method)
    assert "doremi" in more.arms
    assert "7 seeds" in str(hopeless(more))


TEXTS: dict[str, tuple[dict[str, Any], dict[str, str | None]]] = {
    "text column": ({"id": "a b", "text": "t", "long": PROSE}, {"text": "text"}),
    "question and answer": (
        {"question": "q?", "answer": "a"},
        {"template": "Question: {question}\nAnswer: {answer}"},
    ),
    "capital letters": (
        {"Input": "in it", "Output": "out"},
        {"template": "Input: {Input}\nOutput: {Output}"},
    ),
    "instructions": (
        {"instruction": "do", "output": "done", "text_id": 3},
        {"template": "Instruction: {instruction}\nOutput: {output}"},
    ),
    "the longest": ({"title": "t", "body": PROSE, "stars": 4}, {"text": "body"}),
}


@pytest.mark.parametrize("case", TEXTS)
def test_columns_are_found(case: str) -> None:
    record, expected = TEXTS[case]

    found = domain(draft(rows("x.jsonl", record), other()), "x")

    assert {key: getattr(found, key) for key in expected} == expected
    unused = [key for key in record if key not in str(expected)]
    text = Path("spec.toml").read_text()
    assert all(key in re.search("other columns: (.*)", text)[1] for key in unused)  # type: ignore[index]


def test_a_pair_can_become_a_prompt_by_taking_its_comments_away() -> None:
    draft(rows("x.jsonl", {"question": "q?", "answer": "a"}), other())
    text = Path("spec.toml").read_text()
    text = re.sub(r"template = .*\n", "", text).replace("# prompt", "prompt")
    Path("spec.toml").write_text(text.replace("# answer", "answer"))

    found = domain(load_ablation(Path("spec.toml"), [], find_method), "x")

    assert (found.prompt, found.answer) == ("Question: {question}\nAnswer: ", "{answer}")


def test_tables_and_packed_files_are_looked_into() -> None:
    for name, delimiter in (("a.csv", ","), ("b.tsv", "\t")):
        with Path(name).open("w") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([["id", "review"], *([str(i), PROSE] for i in range(30))])
    with gzip.open("c.jsonl.gz", "wt") as file:
        file.write((json.dumps({"body": PROSE}) + "\n") * 30)

    ablation = draft("a.csv", "b.tsv", "c.jsonl.gz")

    assert [domain(ablation, n).text for n in "abc"] == ["review", "review", "body"]


def test_parquet_is_looked_into() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"n": [1, 2], "body": [PROSE, PROSE]})
    parquet.write_table(table, "p.parquet")

    assert domain(draft("p.parquet", other()), "p").text == "body"


HEADINGS = " \n = {} = \n \n Text of it . \n \n = = Part = = \n \n More text . \n"


def test_one_text_is_cut_at_its_headings_or_at_blank_lines() -> None:
    Path("wiki.txt").write_text("".join(HEADINGS.format(f"Title {i}") for i in range(40)))
    Path("book.txt").write_text((PROSE + "\n  \n") * 40)

    ablation = draft("wiki.txt", "book.txt")

    wiki, book = domain(ablation, "wiki").separator, domain(ablation, "book").separator
    articles = [t for t in re.split(str(wiki), Path("wiki.txt").read_text()) if t.strip()]
    assert len(articles) == 40
    assert all(t.startswith(" = Title") and " = = Part = =" in t for t in articles)
    assert len(re.split(str(book), Path("book.txt").read_text())) == 41


def test_many_texts_are_a_document_each() -> None:
    Path("essays").mkdir()
    for i in range(20):
        Path(f"essays/{i}.txt").write_text(PROSE)

    found = domain(draft("essays", other()), "essays")

    assert (found.paths, found.separator) == (("essays/*.txt",), None)


def test_few_documents_are_told_of() -> None:
    Path("note.txt").write_text(PROSE)

    draft("note.txt", other())

    assert "only about 1 documents so" in Path("spec.toml").read_text()


def test_ready_splits_are_mapped_to_ours() -> None:
    for name in ("train", "validation", "test"):
        rows(f"sets/{name}-00.jsonl", {"text": PROSE})

    found = domain(draft("sets", other()), "sets")

    assert found.splits == {
        "train": ("sets/train-00.jsonl",),
        "tuning": ("sets/validation-00.jsonl",),
        "heldout": ("sets/test-00.jsonl",),
    }


def test_without_a_train_file_all_are_split_by_us() -> None:
    for name in ("valid", "test"):
        rows(f"sets/{name}.jsonl", {"text": PROSE})

    found = domain(draft("sets", other()), "sets")

    assert (found.paths, found.splits) == (("sets/*.jsonl",), {})


def test_names_are_valid_and_unique() -> None:
    paths = [rows(p, {"text": PROSE}) for p in ("a/x y.jsonl", "b/x y.jsonl", "math/train.jsonl")]

    assert list(draft(*paths).domains) == ["x_y", "x_y-2", "math"]


def test_a_name_that_is_no_file_is_a_data_set_of_the_hub() -> None:
    found = draft("openai/gsm8k", other()).domains["gsm8k"]

    assert isinstance(found, HubDomain)
    assert found.dataset == "openai/gsm8k"


@pytest.mark.parametrize("indent", range(3))
def test_text_on_one_long_line_is_read_as_what_it_is(indent: int) -> None:
    """The first look may end inside a character; a character cut off at the end is another case."""
    Path("zh.txt").write_text("x" * indent + "\u5b57" * 200_000, encoding="utf-8")
    Path("old.txt").write_bytes(b"x" * 300_000 + "caf\u00e9".encode("latin-1"))
    Path("cut.txt").write_bytes(b"caf\xc3")

    found = [domain(draft(name, other(), out=f"{name}.toml"), name[:-4]).encoding
             for name in ("zh.txt", "old.txt", "cut.txt")]  # fmt: skip

    assert found == ["utf-8", "latin-1", "latin-1"]


def test_a_line_that_is_not_read_to_its_end_is_still_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MAX_LINE_CHARACTERS", 1000)
    Path("zh.txt").write_text("\u5b57" * 100_000, encoding="utf-8")

    assert domain(draft("zh.txt", other()), "zh").encoding == "utf-8"


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_rows_longer_than_the_first_look_are_read_whole(packed: str) -> None:
    long = PROSE * 8000
    table = ["id,review", *(f'{i},"{long}"' for i in range(3))]
    for name, text in (("a.jsonl", json.dumps({"body": long}) + "\n"), ("b.csv", "\n".join(table))):
        raw = text.encode()
        pack = {"": bytes, ".gz": gzip.compress, ".zst": zst}[packed]
        Path(name + packed).write_bytes(pack(raw))

    ablation = draft(f"a.jsonl{packed}", f"b.csv{packed}")

    assert [domain(ablation, n).text for n in "ab"] == ["body", "review"]


def test_a_name_that_tells_no_format_gets_one_and_the_spec_is_read() -> None:
    """What init takes as known, a plan has to take as known too."""
    Path("a.text").write_text((PROSE + "\n") * 40)

    found = domain(draft("a.text", other()), "a")

    assert found.format == "text"
    assert find_source("a", found).facts["files"]["count"] == 1


def test_a_folder_whose_name_is_a_pattern_is_found_again() -> None:
    rows("d[1]/a.jsonl", {"text": PROSE})
    rows("d[1]/deep*/b.jsonl", {"text": PROSE + "."})

    found = domain(draft("d[1]", other()), "d1")

    assert found.paths == ("d[[]1]/**/*.jsonl",)
    assert find_source("a", found).facts["files"]["count"] == 2


def test_names_of_files_and_columns_that_are_no_characters() -> None:
    """A spec cannot name them; a folder's pattern need not, and a comment spells them."""
    odd = os.fsdecode(b"caf\xe9.jsonl")
    rows(f"in/{odd}", {"text": PROSE, "\ud800": 3})

    assert domain(draft("in", other()), "in").paths == ("in/*.jsonl",)
    assert r"other columns: \ud800" in Path("spec.toml").read_text()
    for path, name in ((f"in/{odd}", r"in/caf\\udce9.jsonl"), (rows("c.jsonl", {"\ud800": "a b"}),
                       r"\\ud800")):  # fmt: skip
        with pytest.raises(SpecError, match=rf"^{name}: is no UTF-8, .* rename it"):
            draft(path, other(), out="more.toml")
    assert not Path("more.toml").exists()


def test_strange_columns_and_paths_survive_toml() -> None:
    odd = 'a "quoted" \\ näme\x7f\t😀'
    path = rows('dir "x"/ä.jsonl', {odd: PROSE})

    found = domain(draft(path, other()), "dir_x")

    assert (found.text, found.paths) == (odd, (path,))


def test_small_text_gets_a_small_vocabulary_and_a_short_budget() -> None:
    small = draft(rows("x.jsonl", {"text": PROSE}), other())
    large = draft(rows("x.jsonl", {"text": PROSE}, times=50_000), other(), out="large.toml")

    assert (small.tokenizer.vocab_size, small.budget.steps) == (512, 40)
    assert (large.tokenizer.vocab_size, large.budget.steps) == (2048, 120)


def make_bad_files() -> None:
    """Write one file for each way of being no domain."""
    other()
    Path("empty.txt").touch()
    Path("folder").mkdir()
    Path("binary.txt").write_bytes(b"\x00\x01\x02" * 100)
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    Path("list.jsonl").write_text("[1, 2]\n")
    Path("headless.csv").write_text("1,2\n3,4\n")
    Path("header.csv").write_text("a,b\n")
    Path("numbers.jsonl").write_text('{"a": 1}\n')
    Path("fake.gz").write_text("no gzip")
    packed = bytearray(gzip.compress(random.Random(0).randbytes(9000).hex().encode()))
    packed[2000:2100] = bytes(100)
    Path("broken.txt.gz").write_bytes(packed)
    Path("deep.jsonl").write_text('{"a":' + "[" * 100_000)
    Path("fake.parquet").write_text("no parquet")
    Path("there.toml").write_text("mine")


BAD = {
    "one path": (["other.jsonl"], "give two domains or more"),
    "nothing there": (["other.jsonl", "./none"], "./none: no such file or folder"),
    "no such file": (["other.jsonl", "data/none.jsonl"], "data/none.jsonl: no such file"),
    "glob of nothing": (["other.jsonl", "none/*.txt"], "none/*.txt: matches no file"),
    "empty file": (["other.jsonl", "empty.txt"], "empty.txt: is empty"),
    "empty folder": (["other.jsonl", "folder"], "folder: holds no txt, jsonl"),
    "binary file": (["other.jsonl", "binary.txt"], "binary.txt: holds bytes"),
    "broken JSON": (["other.jsonl", "broken.jsonl"], "broken.jsonl: line 2 is not JSON"),
    "rows without names": (["other.jsonl", "list.jsonl"], "list.jsonl: line 1 is no JSON object"),
    "table without a header": (["other.jsonl", "headless.csv"], "names no columns"),
    "header alone": (["other.jsonl", "header.csv"], "has no row under its header"),
    "no text column": (["other.jsonl", "numbers.jsonl"], "no column of text in jsonl rows"),
    "no gzip": (["other.jsonl", "fake.gz"], "fake.gz: is cut short or no .gz file"),
    "broken gzip": (["other.jsonl", "broken.txt.gz"], "broken.txt.gz: is cut short or no .gz"),
    "deep JSON": (["other.jsonl", "deep.jsonl"], "deep.jsonl: line 1 is not JSON"),
    "out exists": (["other.jsonl", "o/h", "--out", "there.toml"], "there.toml: exists"),
    "unknown target": (["other.jsonl", "o/h", "--target", "x"], "'x' is no domain"),
    "no such folder": (["other.jsonl", "o/h", "--out", "no/x.toml"], "no/x.toml: cannot be writ"),
    "bad name": (["other.jsonl", "o/h", "--name", "a b"], "--name: 'a b'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_bad_files()
    arguments, expected = BAD[case]

    code = cli.main(["init", *arguments])

    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert re.fullmatch(r"steelyard: .*\n", told.err)
    assert expected in told.err
    assert Path("there.toml").read_text() == "mine"
    assert not Path("spec.toml").exists()


@pytest.mark.parametrize("name", ["long.jsonl", "long.csv"])
def test_a_row_too_long_to_look_at_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MAX_LINE_CHARACTERS", 1000)
    Path(name).write_text("text\n" + "word " * 100_000)

    with pytest.raises(SpecError, match=rf"^{name}: a row is longer than 1,000 bytes; break it"):
        draft(name, other())


def test_a_field_that_no_table_can_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "MAX_LINE_CHARACTERS", 300_000)
    Path("a.csv").write_text('text\n"' + "word\n" * 90_000 + '"\n')
    monkeypatch.setattr(glance, "NUM_BYTES", 400_000)

    with pytest.raises(SpecError, match=r"^a\.csv: is no table that can be read: field larger"):
        draft("a.csv", other())


def test_force_writes_over_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    make_bad_files()

    assert cli.main(["init", other(), "o/h", "--out", "there.toml", "--force"]) == 0

    assert load_ablation(Path("there.toml"), [], find_method).name == "there"
    assert "steelyard plan there.toml" in capsys.readouterr().out


def test_a_broken_parquet_file_is_one_line() -> None:
    pytest.importorskip("pyarrow")
    make_bad_files()

    with pytest.raises(SpecError, match=r"fake\.parquet: is no parquet file"):
        draft("fake.parquet", other())


@pytest.mark.parametrize("again", ["one.jsonl", "./one.jsonl", "*.jsonl"])
def test_a_file_of_two_domains_is_refused(again: str) -> None:
    """However it is named: the spec would be refused, so it is not written."""
    one = rows("one.jsonl", {"text": PROSE})

    with pytest.raises(SpecError, match="a text is of one domain"):
        write_spec((one, again), Path("spec.toml"), None, None, False)
    assert not Path("spec.toml").exists()
