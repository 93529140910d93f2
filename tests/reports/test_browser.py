"""The pages in a real browser: figures drawn, no complaint, no sideways scrolling, on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports import study_page
from reports.build import build
from reports.pages import TEMPLATES
from tests.reports.browser import CHROMIUM, DRAWN, WIDTHS, Browser
from tests.reports.conftest import LOST
from tests.reports.synthetic import EFFECTS, write_out
from tests.reports.test_tuning import write_study

STYLE = (TEMPLATES / "style.css.jinja").read_text()

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM: the pages were not looked at"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section: longer baselines, an A/A arm, lost runs, all panels."""
    out = tmp_path_factory.mktemp("full")
    effects = {**EFFECTS, "again": 0.0}
    write_out(out, num_seeds=8, broken=LOST, longer=-0.03, effects=effects)
    return build(out).html


class TestInABrowser:
    pytestmark = needs_browser

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [390, 900, 1300])
    def test_every_figure_is_drawn_and_the_page_fits(
        self, chromium: Browser, page: Path, width: int, dark: bool
    ) -> None:
        chromium.open(page, width, dark)
        drawn = chromium.evaluate(DRAWN)

        assert len(drawn) >= 18
        assert [panel for panel, marks, *_ in drawn if marks < 1] == []
        assert all(0 < wide <= width and high > 100 for _, _, wide, high in drawn)
        needed, given = chromium.evaluate(WIDTHS)
        assert needed <= given == width
        assert chromium.errors() == []

    def test_a_study_has_a_page_that_fits_too(self, chromium: Browser, tmp_path: Path) -> None:
        write_study(tmp_path)
        path = study_page.write(tmp_path, "tuned")
        for width in (390, 1300):
            chromium.open(path, width, dark=width == 390)
            drawn = chromium.evaluate(DRAWN)

            assert len(drawn) >= 4
            assert [panel for panel, marks, *_ in drawn if marks < 0] == []
            needed, given = chromium.evaluate(WIDTHS)
            assert needed <= given == width
            assert chromium.errors() == []

    def test_colors_follow_the_reader(self, chromium: Browser, page: Path) -> None:
        color = "getComputedStyle(document.body).backgroundColor"
        label = "getComputedStyle(document.querySelector('.xtick text')).fill"
        found = {}
        for dark in (False, True):
            chromium.open(page, 900, dark)
            found[dark] = (chromium.evaluate(color), chromium.evaluate(label))

        assert found[False] == ("rgb(255, 255, 255)", "rgb(90, 100, 112)")
        assert found[True] == ("rgb(20, 23, 27)", "rgb(160, 169, 179)")

    def test_the_first_key_offers_to_skip_and_tables_can_be_reached(
        self, chromium: Browser, page: Path
    ) -> None:
        chromium.open(page, 900)
        chromium.press("Tab")
        visible = (
            "document.activeElement.className + ' ' + (document.activeElement.offsetLeft >= 0)"
        )
        assert chromium.evaluate(visible) == "skip true"

        reached = []
        for _ in range(12):
            chromium.press("Tab")
            reached.append(chromium.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert [label for label in reached if label][:2] == ["Arms", "Noise floor"]

    def test_on_paper_it_is_light_and_nothing_is_cut_off(
        self, chromium: Browser, page: Path, tmp_path: Path
    ) -> None:
        """Printed from a dark screen; figures are as wide as their column."""
        chromium.open(page, 700, dark=True, media="print")
        chromium.evaluate("dispatchEvent(new Event('beforeprint'))")

        assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        fill = "getComputedStyle(document.querySelector('.xtick text')).fill"
        assert chromium.evaluate(fill) == "rgb(27, 31, 36)"
        sticky = "[...document.querySelectorAll('th, caption span')].filter("
        sticky += "e => getComputedStyle(e).position === 'sticky').length"
        assert chromium.evaluate(sticky) == 0
        beyond = "[...document.querySelectorAll('.plot .main-svg')].filter("
        beyond += "e => e.getBoundingClientRect().right > innerWidth).length"
        assert chromium.evaluate(beyond) == 0
        needed, given = chromium.evaluate(WIDTHS)
        assert needed <= given
        chromium.pdf(tmp_path / "report.pdf")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")

    def test_figures_of_a_wide_window_fit_a_sheet(self, chromium: Browser, page: Path) -> None:
        """No window is resized for a printer; afterwards they are as they were."""
        widths = "[...document.querySelectorAll('.plot .main-svg')].map(e => e.clientWidth)"
        chromium.open(page, 1300)
        before = chromium.evaluate(widths)
        chromium.evaluate("dispatchEvent(new Event('beforeprint'))")
        printed = chromium.evaluate(widths)
        chromium.evaluate("dispatchEvent(new Event('afterprint'))")

        assert max(before) > 1000
        assert set(printed) == {320, 660}
        assert chromium.evaluate(widths) == before

    def test_a_page_that_complains_is_caught(self, chromium: Browser, tmp_path: Path) -> None:
        """The checks above can fail."""
        bad = tmp_path / "bad.html"
        bad.write_text(
            "<!doctype html><div data-panel='x' style='width: 3000px; height: 9px'></div>"
            "<script>console.error('no'); missing()</script>"
        )
        chromium.open(bad, 390)

        assert chromium.evaluate(DRAWN)[0][:2] == ["x", -1]
        assert chromium.evaluate(WIDTHS)[0] >= 3000
        assert len(chromium.errors()) == 2


# ---- contrast, which needs no browser --------------------------------------------------------


def luminance(color: str) -> float:
    """Return WCAG's relative luminance of #rrggbb."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast ratio, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def schemes() -> dict[str, dict[str, str]]:
    """Return the variables of the style sheet, light and dark."""
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.+?)\}", STYLE, re.DOTALL)
    )
    return {"light": light, "dark": dark}


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme: str) -> None:
    colors = schemes()[scheme]
    texts = ("ink", "soft", "good", "bad", "open", "accent")

    low = {
        (text, paper): contrast(colors[text], colors[paper])
        for text in texts
        for paper in ("paper", "card")
        if contrast(colors[text], colors[paper]) < 4.5
    }

    assert low == {}
