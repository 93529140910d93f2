"""Write the report of an ablation: HTML that needs no network, Markdown with pictures, tables.

Everything a reader might doubt is in the file: run ids under the numbers, costs, runs that are left
out and why, versions, licences. The price of one file is its size, 4.8 MB of which are plotly.js.
The same records give the same bytes; no clock is read. What an optional package writes is left out
without it, in one line that says so.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from harness.files import whole_file
from reports import figures, latex, notation, pages, pictures, tables
from reports.contents import contents, panels
from reports.load import Evidence, load

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """The files of a report; iterating gives those that were written, the page first."""

    html: Path
    markdown: Path
    csv: Path
    """Final evaluations and costs: a row for each arm, seed, split and domain."""
    arms: Path
    """The arms table with every number behind a verdict."""
    figures: Path
    """Every figure's data and layout, as Plotly's own JSON by id."""
    latex: Path
    """The arms table for a paper, with booktabs."""
    parquet: Path | None
    """The same as `csv`; None without pyarrow."""
    pictures: tuple[Path, ...]
    """SVG files that the Markdown shows; none without matplotlib."""

    def __iter__(self) -> Iterator[Path]:
        """Yield every file that was written."""
        yield from (self.html, self.markdown, self.csv, self.arms, self.figures, self.latex)
        yield from () if self.parquet is None else (self.parquet,)
        yield from self.pictures


def build(out_dir: Path, name: str | None = None) -> ReportPaths:
    """Write OUT/report/NAME/ for one ablation; the default is the most recently updated one."""
    return write(load(Path(out_dir), name))


def write(evidence: Evidence) -> ReportPaths:
    """Write OUT/report/NAME/ for the ablation whose records were read."""
    context = contents(evidence)
    folder = evidence.out_dir / "report" / evidence.name
    folder.mkdir(parents=True, exist_ok=True)
    results = tables.results_table(evidence)
    drawn = _pictures(evidence.out_dir, folder, context)
    context["pictures"] = {panel: path.name for panel, path in drawn.items()}
    paths = ReportPaths(
        html=folder / "report.html",
        markdown=folder / "report.md",
        csv=folder / "results.csv",
        arms=folder / "arms.csv",
        figures=folder / "figures.json",
        latex=folder / "table.tex",
        parquet=_parquet(folder / "results.parquet", results),
        pictures=tuple(drawn.values()),
    )
    pages.write(paths.html, pages.html("report.html.jinja", context, panels(context)))
    pages.write(paths.markdown, _render_markdown(context))
    pages.write(paths.csv, results.to_csv(index=False))
    pages.write(paths.arms, pd.DataFrame(context["arms"]).to_csv(index=False))
    pages.write(paths.figures, figures.to_json(panels(context)))
    pages.write(paths.latex, latex.arms_table(context))
    return paths


def _pictures(out: Path, folder: Path, context: dict[str, Any]) -> dict[str, Path]:
    """Write the figures of the Markdown as SVG; return their files by panel, and drop old ones."""
    drawn = {}
    try:
        pictures.import_matplotlib(out / ".matplotlib")
        for panel in _told(context):
            svg = pictures.svg(panel)
            if svg is not None:
                drawn[panel.id] = folder / pictures.file_name(panel)
                pages.write(drawn[panel.id], svg)
    except ImportError:
        _LOG.warning("report.md has no pictures: pip install matplotlib, or steelyard[report]")
    for old in set(folder.glob("figure-*.svg")) - set(drawn.values()):
        old.unlink()
    return drawn


def _told(context: dict[str, Any]) -> list[figures.Panel]:
    """Return the panels that a pull request shows: of the curves by domain, the page has all."""
    without = [panel.id for panel in context["curve_panels"][1:] + context["study_panels"]]
    return [panel for panel in panels(context) if panel.id not in without]


def _parquet(path: Path, table: pd.DataFrame) -> Path | None:
    content = io.BytesIO()
    try:
        table.to_parquet(content, index=False, engine="pyarrow")
    except ImportError:
        path.unlink(missing_ok=True)  # of another environment, and by now of other records
        _LOG.warning("results.parquet is not written: pip install pyarrow, or steelyard[report]")
        return None
    with whole_file(path) as file:
        file.write(content.getvalue())
    return path


def _render_markdown(context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pages.TEMPLATES),
        autoescape=False,  # Markdown has its own special characters: every value passes `finalize`
        finalize=escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["write"] = notation
    environment.filters["verbatim"] = lambda text: Markup("    " + " ".join(str(text).split("\n")))
    environment.filters["picture"] = _picture
    page = environment.get_template("report.md.jinja").render(**context)
    return re.sub(r"\n{3,}", "\n\n", page)


def _picture(panel: figures.Panel, names: dict[str, str]) -> Markup:
    """Return Markdown that shows a panel's file and says what it shows."""
    return Markup(f"![{escape_markdown(panel.alt)}]({names[panel.id]})")


def escape_markdown(value: object) -> str:
    """Escape a value so that Markdown shows it as it is, on one line and in one table cell."""
    if isinstance(value, Markup):
        return value
    return _MARKDOWN.sub(r"\\\1", " ".join(str(value).split("\n")))
