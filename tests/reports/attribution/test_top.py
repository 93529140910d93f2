"""The page and the table of top rows: who is at the ends, what is warned of, what can be done."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.attribution.store import Query, Row, ScoreStore
from harness.errors import SpecError
from reports.attribution import top
from reports.attribution.top_table import table
from tests.reports.attribution.made_stores import some_queries, some_rows, write_store
from tests.reports.browser import CHROMIUM, WIDTHS, Browser


def ranked(folder: Path, count: int = 30, queries: int = 3, **about: Any) -> ScoreStore:
    """Return scores that grow with the row's number, from below zero, and shrink for query 1."""
    scores = np.linspace(-1, 2, count)[:, None] * np.array([1.0, -1.0, 0.5])[:queries]
    return write_store(folder, scores, some_rows(count), some_queries(queries), **about)


def data_of(page: Path) -> dict[str, Any]:
    """Return what a page looks up in."""
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    value: dict[str, Any] = json.loads(found[1])
    return value


def test_ends_are_the_rows_with_the_largest_scores_of_either_sign(tmp_path: Path) -> None:
    store = ranked(tmp_path / "s", threshold=0.5)

    one, other = (top.ends(store, query, 3) for query in (0, 1))

    assert [place for place, _ in one.helpful] == [29, 28, 27]
    assert [place for place, _ in one.harmful] == [0, 1, 2]
    assert [place for place, _ in other.helpful] == [0, 1, 2]
    assert one.largest == 2
    assert one.limit == pytest.approx(0.5 * store.total[:, 0].std())
    every = top.ends(store, 0, 100)
    assert len(every.helpful) + len(every.harmful) == np.count_nonzero(store.total[:, 0])


def test_masked_rows_are_at_neither_end(tmp_path: Path) -> None:
    masked = [{"place": 29, "domain": "qa", "why": "NaN"}]
    store = ranked(tmp_path / "s", masked_rows=masked)

    assert [place for place, _ in top.ends(store, 0, 2).helpful] == [28, 27]


def test_a_page_holds_the_ends_and_a_sample_and_no_more(tmp_path: Path) -> None:
    stores = [ranked(tmp_path / n, 2000, label=n) for n in ("ekfac", "grad_cos")]
    long = [Row("d", i, "p" * 3000, "a" * 3000, 9) for i in range(2000)]
    stores.append(write_store(tmp_path / "l", stores[0].total, long, some_queries(3), label="l"))

    page = top.write([s.folder for s in stores[:2]], tmp_path / "name/pages", 4)

    data = data_of(page)
    assert [s["label"] for s in data["stores"]] == ["ekfac", "grad_cos"]
    assert len(data["rows"]) <= 8 + 8 + top.SAMPLE
    assert data["stores"][0]["queries"][0]["helpful"][0] == [1999, 2.0]
    assert sum(data["stores"][0]["queries"][0]["bins"]) == 2000
    assert data["rows"]["1999"]["row"] == 1999
    assert not re.search(r'(src|href)="(?!#)', page.read_text())
    cut = data_of(top.write([stores[2].folder], tmp_path / "long", 1))["rows"]["1999"]
    assert cut["cut"]
    assert len(cut["prompt"] + cut["answer"]) == top.MOST_CHARS


def test_what_a_text_says_is_no_markup(tmp_path: Path) -> None:
    rows = [Row("d", i, "", f"</script><b>{i}</b> \u2028 & <!--", 2) for i in range(3)]
    store = write_store(tmp_path / "s", np.eye(3, 1) - 0.5, rows, [Query("q", "", "<i>", 1)])

    page = top.write([store.folder], tmp_path / "p", 2)

    assert "<b>0" not in page.read_text()
    assert data_of(page)["rows"]["0"]["answer"] == rows[0].answer


def test_stores_of_other_rows_are_refused(tmp_path: Path) -> None:
    one = ranked(tmp_path / "a")
    other = ranked(tmp_path / "b", label="x", identity={"rows": "others", "queries": "q"})

    with pytest.raises(SpecError, match="scores of 'ekfac' and 'x' are of other rows; score again"):
        top.write([one.folder, other.folder], tmp_path / "p", 2)
    with pytest.raises(SpecError, match="no scores; run attribute score first"):
        top.write([], tmp_path / "p", 2)
    with pytest.raises(SpecError, match="k: 0; show at least one"):
        top.write([one.folder], tmp_path / "p", 0)


def confounded(folder: Path) -> ScoreStore:
    """Return scores whose top rows begin as the first query does, and say something else."""
    form = [Row("d", i, f"What is the {w} of it?", " x", 2) for i, w in enumerate("abcdefgh")]
    others = [Row("d", 8 + i, f"Tell me now {i} stories", " y", 2) for i in range(60)]
    queries = [Query("asks", "What is the capital?", " Sucre", 2), Query("tells", "Sing", " a", 2)]
    scores = np.random.default_rng(0).normal(size=(68, 2))
    scores[:8, 0] += 10
    return write_store(folder, scores, [*form, *others], queries)


def test_a_shared_form_is_warned_of_beside_its_query(tmp_path: Path) -> None:
    store = confounded(tmp_path / "s")

    queries = data_of(top.write([store.folder], tmp_path / "p", 5))["stores"][0]["queries"]

    assert queries[0]["warning"].startswith("The most helpful rows share")
    assert queries[1]["warning"] == ""


def shown(folder: Path, k: int, names: tuple[str, ...] = ()) -> str:
    """Return a table as a terminal of 100 columns has it."""
    file = io.StringIO()
    Console(file=file, width=100).print(table(folder, k, names))
    return file.getvalue()


def test_the_table_shows_both_ends_and_the_warning(tmp_path: Path) -> None:
    ranked(tmp_path / "s")
    said = shown(tmp_path / "s", 2)

    lines = [line for line in said.splitlines() if "qa " in line]
    assert [re.sub(r"[│ ]+", " ", line).split()[:3] for line in lines[:4]] == [
        ["+2", "qa", "29"],
        ["+1.9", "qa", "28"],
        ["-0.897", "qa", "1"],
        ["-1", "qa", "0"],
    ]
    assert len(lines) == 12
    assert "positive: training on the row lowers the query's loss" in said
    assert data_of(top.write([tmp_path / "s"], tmp_path / "p", 2))["stores"][0]["sign"] in said
    confounded(tmp_path / "c")
    assert "The most helpful rows share" in shown(tmp_path / "c", 5)


def test_page_and_terminal_write_the_same_digits(tmp_path: Path) -> None:
    """1.0046 became 1.005 and then 1.01 on the page, and 1 in the terminal."""
    values = [1.0046, 0.10048, -0.70049, 12345.6, 2.5e-5, 1.0e6, 0.9996]
    store = write_store(tmp_path / "s", np.array(values)[:, None], some_rows(7), some_queries(1))

    (found,) = data_of(top.write([store.folder], tmp_path / "p", 9))["stores"][0]["queries"]

    kept = dict(map(tuple, [*found["helpful"], *found["harmful"]]))
    assert [kept[i] for i in range(7)] == [1, 0.1, -0.7, 12300, 2.5e-5, 1e6, 1]
    told = ["+1", "+0.1", "-0.7", "+12,300", "+2.50e-05", "+1.00e+06", "+1"]
    assert [top.written(value) for value in values] == told


def test_a_table_of_many_queries_says_where_the_others_are(tmp_path: Path) -> None:
    scores = np.ones((4, 12))
    write_store(tmp_path / "s", scores, some_rows(4), some_queries(12))

    told = shown(tmp_path / "s", 1)
    assert "and 9 more queries on the page" in told
    assert told.count("And of") == 3
    assert shown(tmp_path / "s", 1, ("q11",)).count("And of") == 1
    with pytest.raises(SpecError, match="queries: 'q99' matches no query; there are q0, q1"):
        table(tmp_path / "s", 1, ("q99",))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM: the pages were not looked at")
class TestInABrowser:
    @pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1400, False)])
    def test_it_fits_and_does_not_complain(
        self, width: int, dark: bool, chromium: Browser, tmp_path: Path
    ) -> None:
        rows = [Row("a-domain-of-a-long-name", i, "w" * 900, "v\n" * 40, 9) for i in range(40)]
        names = [Query(f"a-query-with-a-long-name-{i}", "u" * 400, "t", 1) for i in range(30)]
        scores = np.random.default_rng(0).normal(size=(40, 30))
        page = top.write([write_store(tmp_path / "s", scores, rows, names).folder], tmp_path, 5)

        chromium.open(page, width, dark)

        assert chromium.errors() == []
        wide, window = chromium.evaluate(WIDTHS)
        assert wide <= window

    def test_it_can_be_searched(self, chromium: Browser, tmp_path: Path) -> None:
        stores = [ranked(tmp_path / n, label=n) for n in ("ekfac", "grad_cos")]
        page = top.write([s.folder for s in stores], tmp_path / "p", 3)
        chromium.open(page, 1200)

        def typed(field: str, text: str, count: str) -> int:
            value = f"document.getElementById({field!r})"
            chromium.evaluate(f"{value}.value = {text!r}; {value}.oninput()")
            found: int = chromium.evaluate(f"document.querySelectorAll({count!r}).length")
            return found

        assert typed("text", "", ".columns .card") == 6
        assert typed("text", "THING 28", ".columns .card") == 1
        assert chromium.evaluate("document.querySelector('mark').textContent") == "thing 28"
        told = chromium.evaluate("document.getElementById('matches').textContent")
        assert told.startswith(
            "1 of this query's rows, 1 of the random ones. Also among the rows of"
        )
        chromium.evaluate("document.querySelector('#matches .linked').click()")
        assert chromium.evaluate("document.getElementById('query-name').textContent") == "q1"
        assert typed("filter", "and of 2", "#queries button") == 1
        chromium.evaluate(
            "(() => { const e = document.getElementById('estimator');"
            "e.selectedIndex = 1; e.onchange(); })()"
        )
        assert chromium.evaluate("location.hash") == "#query=1&estimator=1"
        assert chromium.errors() == []
