"""The most helpful and most harmful rows per query, in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.attribution.matching import matching
from harness.attribution.store import Query, Row, ScoreStore, opened
from reports.attribution.overlap import Overlaps
from reports.attribution.overlap import Text as Compared
from reports.attribution.top import Ends, confounds, ends, written

MOST_QUERIES = 3  # in a terminal, 10 lines each and more; the page has all of them
WIDTH = 160  # characters of a text
GOOD, BAD = "green", "red"


def table(scores: Path | ScoreStore, k: int, patterns: tuple[str, ...] = ()) -> RenderableType:
    """Return a table per query, of those that match a pattern or of the first few."""
    (store,) = opened([scores], "top")
    rows, queries = store.rows(), store.queries()
    overlaps = Overlaps(
        [Compared(row.prompt, row.answer) for row in rows],
        [Compared(query.prompt, query.answer) for query in queries],
    )
    found = [ends(store, query, k) for query in range(len(queries))]
    told = confounds(store, found, overlaps)
    names = [query.name for query in queries]
    chosen = matching(names, "queries", patterns, "query")
    chosen = chosen or list(range(min(MOST_QUERIES, len(queries))))
    shown = [_one(queries[q], rows, found[q], told[q]) for q in chosen]
    more = len(queries) - len(chosen)
    about = Text(f"{store.label}: {store.about['formula']}; {store.about['sign']}", style="dim")
    if patterns or not more:
        return Group(about, *shown)
    return Group(about, *shown, Text(f"and {more} more queries on the page", style="dim"))


def _one(query: Query, rows: list[Row], found: Ends, warning: str) -> RenderableType:
    shown = Table(title=Text(f"{query.name}: {_line(query)}"), title_justify="left", expand=True)
    shown.add_column("score", justify="right", no_wrap=True)
    shown.add_column("row", no_wrap=True)
    shown.add_column("text", ratio=1, overflow="ellipsis")
    for pairs, color in ((found.helpful, GOOD), (found.harmful[::-1], BAD)):
        for place, score in pairs:
            row = rows[place]
            style = "dim" if abs(score) < found.limit else color
            cells = Text(written(score), style=style), Text(f"{row.domain} {row.row}")
            shown.add_row(*cells, Text(_line(row)))
        shown.add_section()
    if not found.helpful and not found.harmful:
        shown.add_row("", "", Text("no row has a score", style="dim"))
    return Group(shown, Text(warning, style="yellow")) if warning else shown


def _line(entry: Row | Query) -> str:
    """Return a text on one line, its end cut off where it is long."""
    line = " ".join(entry.text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
