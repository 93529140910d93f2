"""What a pull request, a paper and a program read: pictures, LaTeX, Parquet."""

from __future__ import annotations

import builtins
import logging
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import plotly.graph_objects as go
import pytest

from reports import latex, pictures
from reports.arms import arms_table
from reports.build import build
from reports.contents import contents, panels
from reports.figures import panel
from reports.load import load
from tests.reports.synthetic import edit, write_out

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]
TEX = shutil.which("pdflatex") or shutil.which("tectonic")


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let imports of these packages fail as where they are not installed."""
    real = builtins.__import__
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        monkeypatch.delitem(sys.modules, name)

    def gone(name: str, *more: Any, **named: Any) -> Any:
        if name.split(".")[0] in names:
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", gone)


# ---- pictures --------------------------------------------------------------------------------


def test_the_markdown_shows_pictures_that_are_there_and_say_what_they_show(eight: Path) -> None:
    paths = build(eight)
    shown = re.findall(r"!\[(.+?)\]\((\S+?)\)\n", paths.markdown.read_text())

    assert {name for _, name in shown} == {path.name for path in paths.pictures}
    assert len(shown) >= 10
    assert all(len(alt) > 40 for alt, _ in shown)
    for path in paths.pictures:
        root = ET.fromstring(path.read_text())
        assert root.tag == f"{SVG}svg"
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 40


def test_a_picture_draws_what_the_page_draws(eight: Path) -> None:
    """Text stays text: every arm is named, and the axis says what it is."""
    drawn = {panel.id: pictures.svg(panel) for panel in panels(contents(load(eight)))}
    flops = drawn["spending-flops"]

    assert flops is not None
    words = {"".join(e.itertext()).strip() for e in ET.fromstring(flops).iter(f"{SVG}text")}
    assert {"uniform", "influence", "doremi", "half"} <= words
    assert "FLOPs of training, mixer and auxiliary runs" in words
    weights = drawn["weights-influence"]
    assert weights is not None
    for color in ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#44bb99"):
        assert color in weights


def test_names_of_arms_can_be_names_of_files(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "ablations" / "demo.json"
    path.write_text(path.read_text().replace('"influence": {', '"../in/flu <ence>": {', 1))

    for picture in build(tmp_path).pictures:
        assert picture.parent == tmp_path / "report" / "demo"
        assert ET.fromstring(picture.read_text()) is not None


def test_pictures_of_before_are_gone(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    old = build(tmp_path).html.with_name("figure-weights-gone.svg")
    old.write_text("<svg/>")
    build(tmp_path)

    assert not old.exists()


def test_nothing_is_written_to_the_home_folder(tmp_path: Path) -> None:
    """In a process of its own, since matplotlib asks once where it may write."""
    out, home = write_out(tmp_path / "out", num_seeds=1), tmp_path / "home"
    home.mkdir()
    code = f"from reports.build import build; assert build({str(out)!r}).pictures"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL"))}
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env={**kept, "HOME": str(home)}
    )

    assert list(home.iterdir()) == []
    assert (out / ".matplotlib").is_dir()


def test_a_users_own_style_changes_no_picture(eight: Path) -> None:
    panel = panels(contents(load(eight)))[0]
    plain = pictures.svg(panel)

    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert pictures.svg(panel) == plain


def test_without_matplotlib_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_out(tmp_path, num_seeds=2)
    without(monkeypatch, "matplotlib")
    with caplog.at_level(logging.WARNING):
        paths = build(tmp_path)

    assert paths.pictures == ()
    assert "![" not in paths.markdown.read_text()
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("report.md has no pictures: pip install matplotlib")


# ---- tables ----------------------------------------------------------------------------------


def test_parquet_holds_what_the_csv_holds(eight: Path) -> None:
    paths = build(eight)

    assert paths.parquet is not None
    table = pd.read_parquet(paths.parquet)
    csv = pd.read_csv(paths.csv, dtype={"run_id": str})
    pd.testing.assert_frame_equal(table, csv, check_dtype=False)


def test_without_pyarrow_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_out(tmp_path, num_seeds=2)
    before = build(tmp_path)
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda *_, **__: (_ for _ in ()).throw(ImportError)
    )
    with caplog.at_level(logging.WARNING):
        paths = build(tmp_path)

    assert paths.parquet is None
    assert before.parquet is not None
    assert not before.parquet.exists()
    assert "results.parquet is not written: pip install pyarrow" in caplog.text
    assert all(path.exists() for path in paths)


def cells(table: str) -> list[list[str]]:
    """Return the rows between midrule and bottomrule."""
    body = table.split("\\midrule")[1].split("\\bottomrule")[0]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix("\\\\").strip(" \\"))]
        for line in body.strip().splitlines()
    ]


def test_the_latex_table_has_the_numbers_of_the_arms(eight: Path) -> None:
    table = build(eight).latex.read_text()
    arms = arms_table(load(eight)).set_index("arm")
    rows = {row[0]: row for row in cells(table)}

    assert list(rows) == ["uniform", "influence", "doremi", "half"]
    assert all(len(row) == 9 for row in rows.values())
    assert rows["influence"][1] == f"{arms['target']['influence']:.3f}"
    assert rows["influence"][4].startswith(f"${arms['difference']['influence']:+.3f}$ [$")
    assert rows["doremi"][8] == "undecided"
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert table.count(rule) == 1


HOSTILE = "a_b & 50% {x} \\ ~ ^ # $ <y>"


def test_what_users_wrote_is_text_to_latex(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = tmp_path / "ablations" / "demo.json"
    edit(path, title=f"{HOSTILE}\nnext", command="steelyard run 'a\nb'")
    path.write_text(path.read_text().replace('"influence": {', '"in_flu&ence%": {', 1))

    table = build(tmp_path).latex.read_text()

    assert "in\\_flu\\&ence\\%" in table
    assert "a\\_b \\& 50\\% \\{x\\} \\textbackslash{} \\textasciitilde{}" in table
    lines = [line for line in table.splitlines() if not line.startswith("%")]
    assert lines[0].startswith("\\begin{table}")
    assert not re.search(r"(?<!\\)[%#]", "\n".join(lines))
    assert len([line for line in lines if line.endswith("\\\\")]) == 5
    assert all(ord(letter) < 128 for letter in table)


def test_escaping_by_hand() -> None:
    assert latex.escaped("50% of a_b\n{c}") == "50\\% of a\\_b \\{c\\}"
    assert latex.escaped("\\x") == "\\textbackslash{}x"


@pytest.mark.skipif(TEX is None, reason="NO TEX: the table was not compiled")
def test_a_paper_with_the_table_compiles(eight: Path, tmp_path: Path) -> None:
    table = build(eight).latex.read_text()
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\n{table}\n\\end{{document}}")

    options = ["-interaction=nonstopmode"] if TEX and "pdflatex" in TEX else []
    subprocess.run([str(TEX), *options, "paper.tex"], cwd=tmp_path, check=True, timeout=120)


@pytest.mark.parametrize("ticks", [None, [1, 10]])
def test_an_axis_on_a_log_scale_is_drawn_with_ticks_of_its_own_or_given_ones(
    ticks: list[int] | None,
) -> None:
    figure = go.Figure()
    figure.add_scatter(x=[1.0, 20.0, 400.0], y=[3.0, 2.0, 1.0], mode="lines", name="arm")
    figure.update_xaxes(type="log", **({} if ticks is None else {"tickvals": ticks}))

    drawn = pictures.svg(panel("spending-flops", "title", "in words", figure, 200))

    assert drawn is not None
    assert ET.fromstring(drawn).tag.endswith("svg")
