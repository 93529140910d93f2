"""The page of factors: numbers that are right, words that follow them, pictures that are drawn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import SpecError
from reports.attribution import inspect, inspect_words
from reports.attribution.spectra import Spectrum, open_fitted, spectra
from tests.reports.attribution.made_factors import DAMPING, write_factors
from tests.reports.browser import CHROMIUM, WIDTHS, Browser

FC, PROJ = "blocks.{}.mlp.fc", "blocks.{}.mlp.proj"
STEEP = np.outer(10.0 ** np.arange(-9, 1), 10.0 ** np.linspace(-6, 0, 20))
EVEN = np.full((10, 20), 2.0)


def one(folder: Path, matrix: Any, **settings: Any) -> Spectrum:
    """Return the spectrum of a folder with this matrix alone."""
    fitted = open_fitted(write_factors(folder, {FC.format(0): matrix}, **settings))
    (found,) = spectra(fitted)
    return found


def test_the_numbers_are_those_of_the_matrix(tmp_path: Path) -> None:
    values = np.arange(1.0, 201.0)
    matrix = np.random.default_rng(0).permutation(values).reshape(10, 20)

    found = one(tmp_path / "f", matrix)

    assert found.directions == 200
    assert found.total == values.sum()
    assert found.stable_rank == values.sum() / 200
    assert found.condition == 200
    damping = DAMPING * values.mean()
    assert found.condition_damped == pytest.approx((200 + damping) / (1 + damping), rel=1e-5)
    assert found.damped == np.mean(values < damping)
    largest_first = values[::-1].cumsum() / values.sum()
    for share, count in zip((0.5, 0.9, 0.99), found.reach, strict=True):
        assert largest_first[count - 1] >= share > largest_first[count - 2]
    assert found.last_rows == pytest.approx(matrix[-1:].sum() / values.sum())
    assert found.last_columns == pytest.approx(matrix[:, -2:].sum() / values.sum())
    assert (found.layer, found.kind) == (0, "mlp.fc")
    assert np.array_equal(found.heat, matrix)


def test_the_damping_is_the_one_asked_for(tmp_path: Path) -> None:
    """Not the one of the day on which the factors were fitted."""
    values = np.arange(1.0, 201.0)
    folder = write_factors(tmp_path / "f", {FC.format(0): values.reshape(10, 20)})

    for damping, absolute in (((3.0, "relative"), 3 * values.mean()), ((50.5, "absolute"), 50.5)):
        (found,) = spectra(open_fitted(folder, damping))
        assert found.damping == pytest.approx(absolute)
        assert found.damped == np.mean(values < absolute)
    page = inspect.write(folder, tmp_path / "out", (), (50.5, "absolute"))
    assert "; damping 50.5. An eigenvalue" in page.read_text()


def test_a_wide_matrix_is_drawn_by_means_of_blocks_and_few_points(tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).random((192, 300))

    found = one(tmp_path / "f", matrix, strategy="diagonal")

    assert found.heat.shape == (96, 96)
    assert found.heat[0, 0] == pytest.approx(matrix[:2, :3].mean(), rel=1e-5)
    assert len(found.values) <= 410
    assert found.values[0] == pytest.approx(matrix.min())
    assert found.values[-1] == pytest.approx(matrix.max())
    assert found.held[-1] == pytest.approx(1)
    assert found.inputs is None


def test_a_trace_ridge_that_was_fitted_with_is_taken_off_again(tmp_path: Path) -> None:
    """So that both curves can be drawn, whichever was fitted."""
    plain, ridged = (one(tmp_path / str(r), EVEN, trace_ridge=r) for r in (0.0, 0.2))

    for found in (plain, ridged):
        assert found.inputs is not None
        np.testing.assert_allclose(found.inputs.values, np.arange(1, 21), rtol=1e-5)
        assert found.inputs.condition == pytest.approx(20, rel=1e-5)
        after = np.arange(1, 21) + 0.2 * 210
        np.testing.assert_allclose(found.inputs.ridged(0.2), after, rtol=1e-5)
    assert "Not applied here" in inspect_words.ridge(plain, "ekfac", 0.0)
    assert "were fitted with it" in inspect_words.ridge(ridged, "ekfac", 0.2)


def test_kfac_inverts_products_and_a_ridge_flattens_them(tmp_path: Path) -> None:
    found = one(tmp_path / "f", EVEN, strategy="kfac")

    assert found.condition == 200
    assert found.stable_rank == pytest.approx(210 * 55 / 200)
    assert found.ridged is not None
    after = np.outer(np.arange(1, 11) + 0.2 * 55, np.arange(1, 21) + 0.2 * 210)
    assert found.ridged["condition"] == pytest.approx(after.max() / after.min())
    assert found.ridged["stable_rank"] == pytest.approx(after.sum() / after.max())
    text = inspect_words.ridge(found, "kfac", 0.0)
    assert f"stable rank rises from 57.8 to {after.sum() / after.max():.3g} of 200" in text


def test_words_change_with_the_numbers(tmp_path: Path) -> None:
    steep, even = (one(tmp_path / name, m) for name, m in (("s", STEEP), ("e", EVEN)))

    assert "It gathers at the bottom edge" in inspect_words.heatmap(steep)
    assert "spread evenly" in inspect_words.heatmap(even)
    assert "along most directions the inverse is flat" in inspect_words.sorted_values(steep)
    assert "it changes the inverse little anywhere" in inspect_words.sorted_values(even)
    assert "The condition number is 1, with the damping 1" in inspect_words.condition(even)
    dead = STEEP.copy()
    dead[0] = 0
    text = inspect_words.condition(one(tmp_path / "d", dead))
    assert "Some eigenvalues are 0, so there is no inverse without damping" in text
    assert f"the {even.reach[0]} largest (50%)" in inspect_words.cumulative(even)
    assert "ekfac measures what it inverts afterwards" in inspect_words.ridge(even, "ekfac", 0.0)
    assert inspect_words.ridge(one(tmp_path / "g", EVEN, strategy="diagonal"), "diagonal", 0) == ""


@pytest.mark.parametrize(
    ("powers", "told"),
    [
        ([1, 2, 3, 4, 5], "falls with depth (Spearman \N{MINUS SIGN}1.000, 5 layers)"),
        ([5, 4, 3, 2, 1], "rises with depth (Spearman 1.000, 5 layers)"),
        ([1, 5, 2, 4, 3], "has no clear trend with depth (Spearman \N{MINUS SIGN}0.300"),
    ],
)
def test_depth_is_called_a_trend_only_where_it_is_one(
    powers: list[int], told: str, tmp_path: Path
) -> None:
    lambdas = {FC.format(i): np.linspace(0.1, 1, 200).reshape(10, 20) ** p
               for i, p in enumerate(powers)}  # fmt: skip
    found = list(spectra(open_fitted(write_factors(tmp_path / "f", lambdas))))

    said = inspect_words.across(found)
    assert f"mlp.fc: the stable rank {told}" in " ".join(said["stable_rank"])
    assert [len(lines) for lines in said.values()] == [2, 1, 1, 1]
    few = str(inspect_words.across(found[:3]))
    assert "depth" not in few


def two_kinds(folder: Path, **settings: Any) -> Path:
    """Return factors of four modules."""
    lambdas = {n.format(i): STEEP * (i + 1) for i in range(2) for n in (FC, PROJ)}
    return write_factors(folder, lambdas, **settings)


def test_layers_are_chosen_by_pattern(tmp_path: Path) -> None:
    folder = two_kinds(tmp_path / "f")

    whole = inspect.write(folder, tmp_path / "out")
    before = whole.read_text(), inspect.readings(whole)
    page = inspect.write(folder, tmp_path / "out", (r"\.1\.", "0.mlp.proj"))

    assert before == (whole.read_text(), inspect.readings(whole))  # a part replaces nothing
    assert inspect.write(folder, tmp_path / "out", ("mlp",)) == whole  # matches every module
    names = {path.name.rpartition(".")[0] for path in (page.parent / "pictures").iterdir()}
    chosen = [FC.format(1), PROJ.format(0), PROJ.format(1)]
    kinds = ("lambda", "sorted", "cumulative", "covariances")
    across = {f"across.{name}" for name in ("stable_rank", "condition", "damped", "reach")}
    assert names == {f"{name}.{kind}" for name in chosen for kind in kinds} | across
    text = page.read_text()
    assert FC.format(0) not in text
    assert "3 of 4 modules" in text
    assert any(" of 6 covariances have less than" in line for line in inspect.readings(page))
    assert any(" of 8 covariances have less than" in line for line in inspect.readings(whole))
    drawn = text.split('id="across"')[1].split("</section>")[0]
    assert drawn.count('<p class="says">The ') == drawn.count("<figure>") == 4
    with pytest.raises(SpecError, match=r"layers: 'gate' matches no fitted module; there are blo"):
        inspect.write(folder, tmp_path / "none", ("gate",))
    with pytest.raises(SpecError, match=r"layers: '\(' is no regular expression"):
        inspect.write(folder, tmp_path / "none", ("(",))
    assert not (tmp_path / "none").exists()


def test_what_was_done_about_a_fit_is_told_and_nothing_is_run_of_it(tmp_path: Path) -> None:
    done = {"action": "mask", "stage": "lambda", "what": "left out <script>x</script>"}
    folder = two_kinds(tmp_path / "f", decisions=[done | {"because": "NaN"}])

    text = inspect.write(folder, tmp_path / "out", (r"\.1\.mlp\.fc",)).read_text()

    assert "mask: left out &lt;script&gt;x&lt;/script&gt;, because NaN." in text
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text.replace('href="#main"', ""))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("strategy", ["identity", None])
def test_nothing_to_look_at_is_one_line(strategy: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    if strategy:
        write_factors(folder, {}, strategy=strategy)

    with pytest.raises(SpecError) as refused:
        inspect.write(folder, tmp_path / "out")

    assert "\n" not in str(refused.value)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_fits_a_phone_and_draws_in_both_schemes(tmp_path: Path) -> None:
    page = inspect.write(two_kinds(tmp_path / "f"), tmp_path / "out", ("proj",))
    seen = """[...document.querySelectorAll("svg.drawn")].filter(e => e.checkVisibility())
        .map(e => [e.getBoundingClientRect().width, e.querySelectorAll("path, image").length])"""
    ink = 'getComputedStyle(document.querySelector("svg.drawn text")).fill'
    browser = Browser(tmp_path / "profile")
    try:
        inks = []
        for width, dark in ((360, False), (1100, True)):
            browser.open(page, width=width, dark=dark)
            assert browser.errors() == []
            wide, inside = browser.evaluate(WIDTHS)
            assert wide <= inside
            drawn = browser.evaluate(seen)
            assert len(drawn) == 8  # across layers, and the last module, which is open
            assert all(0 < size <= width and marks > 3 for size, marks in drawn)
            inks.append(browser.evaluate(ink))
        assert inks[0] != inks[1]
    finally:
        browser.close()
