"""The files of a report: whole, self-contained, escaped, accessible, and drawn by a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from reports import palette, weight_figures
from reports.build import build, escape_markdown
from reports.contents import contents
from reports.headline import headline
from reports.load import load
from tests.reports.synthetic import TRAINED, UNTRAINED, edit, write_out


class Page(HTMLParser):
    """What a page is made of: tags with attributes, and its text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def page(lossy: Path) -> Page:
    return Page(build(lossy).html)


def test_the_files_are_written_whole_and_the_same_records_give_the_same_bytes(
    eight: Path,
) -> None:
    paths = build(eight)
    first = [path.read_bytes() for path in paths]

    written = {path.name for path in (eight / "report" / "demo").iterdir()}
    assert {name for name in written if not name.startswith("figure-")} == {
        "arms.csv",
        "figures.json",
        "report.html",
        "report.md",
        "results.csv",
        "results.parquet",
        "table.tex",
    }
    assert written == {path.name for path in paths}
    assert [path.read_bytes() for path in build(eight)] == first


def test_the_figures_can_be_drawn_again(eight: Path) -> None:
    """By anyone with plotly, from the file alone."""
    specs = json.loads(build(eight).figures.read_text())

    assert len(specs) >= 4
    for spec in specs.values():
        assert go.Figure(data=spec["data"], layout=spec["layout"]).data


def test_the_csv_can_be_read_back(eight: Path) -> None:
    table = pd.read_csv(build(eight).csv, dtype={"run_id": str})

    assert table["run_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert set(table["domain"]) == {*TRAINED, UNTRAINED}


def test_a_report_says_what_is_tested_what_is_descriptive_and_what_is_not_worth_having(
    tmp_path: Path, page: Page
) -> None:
    declared = Page(build(write_out(tmp_path, num_seeds=8, margin=0.03)).html).text

    assert "Differences within 0.03 are not worth having." in declared
    assert "An arm is equivalent where two one-sided sign-flip tests put it" in declared
    assert "No margin is declared, so no arm can be called equivalent." in page.text
    for text in (declared, page.text):
        assert "Every other metric is descriptive." in text
        assert "in four of five repetitions" in text


def test_the_page_loads_nothing(page: Page) -> None:
    assert not [a for a in page.named("script", "img", "iframe") if a.get("src")]
    assert not page.named("link")
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_what_users_wrote_is_shown_and_never_markup(page: Page, lossy: Path) -> None:
    markdown = build(lossy).markdown.read_text()

    assert "<script>alert(1)</script> | `loss` is nan" in page.text
    assert not re.search(r"(?<!\\)<script", markdown)
    assert r"\<script\>alert(1)\</script\> \| \`loss\` is nan" in markdown
    assert escape_markdown("a\nb") == "a b"


def test_hostile_names_cannot_leave_the_script_element(tmp_path: Path) -> None:
    evil = "</script><b>x"
    write_out(tmp_path, num_seeds=2)
    for path in [*tmp_path.glob("runs/*/*.json*"), *tmp_path.glob("ablations/*.json")]:
        path.write_text(path.read_text().replace('"docs"', json.dumps(evil)))

    page = Page(build(tmp_path).html)

    assert not page.named("b")
    assert len(page.named("script")) == 3
    assert evil in page.text


def test_the_page_is_made_for_every_reader(page: Page) -> None:
    assert page.named("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")][:2] == ["h1", "h2"]
    assert all(a.get("scope") in ("col", "row") for a in page.named("th"))
    plots = [a for a in page.named("div") if a.get("data-panel")]
    assert len(plots) >= 12
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 40 for a in plots)
    identities = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(identities) == len(set(identities))


def test_the_page_tells_what_a_doubter_asks(page: Page) -> None:
    for text in (
        "steelyard run sweeps/demo.toml",
        "How each verdict came about",
        "Run ids behind these numbers",
        "(reference)",
        "not trained on",
        "BSD-3-Clause",
        "example-code 1.14.0",
        "torch",
        "interrupted",
    ):
        assert text in page.text


def test_every_drawn_panel_has_its_specification(lossy: Path) -> None:
    html = build(lossy).html.read_text()
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', html)[1])  # type: ignore[index]

    assert set(specs) == set(re.findall(r'data-panel="([^"]+)"', html))


def test_a_domain_has_one_color_in_every_figure(eight: Path) -> None:
    evidence = load(eight)
    keys = palette.domain_keys(evidence)
    panels, fixed = weight_figures.weights(evidence)

    assert [panel.title for panel in panels] == ["influence", "doremi"]
    assert [arm for arm, _ in fixed] == ["uniform", "half"]
    for panel in panels:
        colors = {trace["name"]: trace["fillcolor"] for trace in panel.spec["data"]}
        assert colors == {domain: keys[domain].color for domain in TRAINED}


def test_many_domains_and_arms_stay_apart(eight: Path) -> None:
    evidence = load(eight)
    evidence.header["probe_domains"] = [f"d{k}" for k in range(30)]

    keys = palette.domain_keys(evidence).values()

    assert len({(key.color, key.hatch) for key in keys}) == 30


def test_other_ablations_of_the_folder_are_named(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1, name="first", updated="2026-11-01T00:00:00Z")
    write_out(tmp_path, num_seeds=1, name="second", updated="2026-11-03T00:00:00Z")

    assert "also holds another ablation: first" in Page(build(tmp_path).html).text
    assert "also holds another ablation: second" in Page(build(tmp_path, "first").html).text


@pytest.mark.parametrize("state", ["pending", "running", "failed"])
def test_a_report_of_nothing_finished_is_a_report(tmp_path: Path, state: str) -> None:
    arms = ("uniform", "influence", "doremi", "half")
    broken = {(arm, seed): (state, None) for arm in arms for seed in range(2)}
    write_out(tmp_path, num_seeds=2, broken=broken)

    page = Page(build(tmp_path).html)

    assert "No run has finished, so nothing can be said yet." in page.text
    assert "8 of 8 main runs are not in these numbers" in page.text


def test_a_baseline_that_failed_leaves_the_other_numbers_standing(tmp_path: Path) -> None:
    broken = {("uniform", seed): ("failed", "no memory") for seed in range(2)}
    write_out(tmp_path, num_seeds=2, broken=broken)

    page = Page(build(tmp_path).html)

    assert "No arm shares a finished seed with uniform yet." in page.text
    assert "no seed has finished in both arms" in page.text


WARNINGS = [
    {"code": "random", "domain": "code", "loud": True, "text": "domains.<b>code</b> *is* random."},
    {"code": "few", "domain": "docs", "loud": False, "text": "domains.docs is small."},
]


def test_warnings_on_the_data_stand_before_every_result(tmp_path: Path) -> None:
    edit(write_out(tmp_path, num_seeds=2) / "ablations" / "demo.json", warnings=WARNINGS)

    paths = build(tmp_path)

    text, markdown = Page(paths.html).text, paths.markdown.read_text()
    assert text.index("rebalancing cannot work") < text.index("domains.<b>code</b> *is* random.")
    assert text.index("domains.docs is small.") < text.index("What this ablation shows")
    assert r"> **Warning**: domains.\<b\>code\</b\> \*is\* random." in markdown
    assert "> Note: domains.docs is small." in markdown
    assert "Rebalancing cannot work on code (like noise)" in headline(load(tmp_path))[0].text


def test_notes_on_the_data_are_not_shouted(tmp_path: Path) -> None:
    edit(write_out(tmp_path, num_seeds=2) / "ablations" / "demo.json", warnings=WARNINGS[1:])

    text = Page(build(tmp_path).html).text

    assert "Notes on the data" in text
    assert "rebalancing cannot work" not in text.lower()


def test_a_report_without_warnings_has_no_box(eight: Path) -> None:
    assert 'class="warnings"' not in build(eight).html.read_text()


def test_a_cleared_corpus_or_a_strange_manifest_does_no_harm(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)
    manifest = tmp_path / "corpora" / "c0ffee" / "manifest.json"
    manifest.write_text('{"domains": {"code": {"license": ["MIT", "ISC"]}}}')

    assert contents(load(tmp_path))["corpus"][0]["license"] == "MIT, ISC"
    manifest.unlink()
    assert contents(load(tmp_path))["corpus"] == []


def test_runs_from_different_machines_are_pointed_out(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    run = next(tmp_path.glob("runs/*/run.json"))
    edit(run, versions={"torch": "2.14.0"})

    assert "2.13.0; 2.14.0" in Page(build(tmp_path).html).text.replace(
        "2.14.0; 2.13.0", "2.13.0; 2.14.0"
    )
    assert "(differs between runs)" in Page(build(tmp_path).html).text
