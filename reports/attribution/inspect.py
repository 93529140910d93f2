"""The page of fitted factors: what each module's curvature looks like, and what that means."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from harness.files import read_json, whole_file, write_json
from reports import pages
from reports.attribution import inspect_pictures, inspect_words
from reports.attribution.spectra import Spectrum, open_fitted, spectra

PICTURES, READINGS = "pictures", "readings.json"


class Shown(NamedTuple):
    """A picture of the page, and what it says."""

    title: str
    svg: Markup
    text: str


class Module(NamedTuple):
    """One module of the page."""

    spectrum: Spectrum
    shown: list[Shown]


def write(
    folder: Path,
    out: Path,
    layers: tuple[str, ...] = (),
    damping: tuple[float, str] | None = None,
) -> Path:
    """Write OUT/index.html and OUT/pictures/*.png of the factors in `folder`; return the page.

    `layers` are regular expressions of module names; all modules by default, and some of them are
    drawn in a folder below OUT, so that the whole page stays. `damping` and its unit are those of
    scoring; by default those that the factors were fitted with. SpecError where a pattern matches
    nothing, or where there is no curvature to look at.
    """
    fitted = open_fitted(folder, damping)
    names = fitted.chosen(layers)  # before anything is drawn
    if len(names) < len(fitted.about["modules"]):
        out = out / f"part-{hashlib.sha256(repr(names).encode()).hexdigest()[:16]}"
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    found: list[Spectrum] = []
    modules: list[Module] = []
    with tempfile.TemporaryDirectory() as cache:
        inspect_pictures.prepare(Path(cache))
        for spectrum in spectra(fitted, layers):
            found.append(spectrum)
            shown = _module(spectrum, out, fitted.about["strategy"], fitted.about["trace_ridge"])
            modules.append(Module(spectrum, shown))
        across = inspect_words.across(found)
        drawn = [
            _kept(picture, out, " ".join(across[picture.name.removeprefix("across.")]))
            for picture in (inspect_pictures.across(found) if across else ())
        ]
    health = inspect_words.health(fitted.health, names)
    context: dict[str, Any] = {
        "about": fitted.about,
        "factors_id": folder.name,
        "health": fitted.health,
        "words": inspect_words,
        "readings": health,
        "across": drawn,
        "modules": modules,
        "pattern": ", ".join(layers),
        "number": inspect_words.number,
    }
    write_json(out / READINGS, [*health, *(line for told in across.values() for line in told)])
    path = out / "index.html"
    pages.write(path, pages.html("inspect.html.jinja", context, []))
    return path


def readings(page: Path) -> list[str]:
    """Return what a page that was written says of the whole, for a terminal."""
    found: list[str] = read_json(page.parent / READINGS)
    return found


def _module(spectrum: Spectrum, out: Path, strategy: str, fitted_with: float) -> list[Shown]:
    told = {
        "lambda": inspect_words.heatmap(spectrum),
        "sorted": " ".join(
            [inspect_words.sorted_values(spectrum), inspect_words.condition(spectrum)]
        ),
        "cumulative": inspect_words.cumulative(spectrum),
        "covariances": inspect_words.ridge(spectrum, strategy, fitted_with),
    }
    pictures = inspect_pictures.of_module(spectrum, fitted_with)
    return [_kept(picture, out, told[picture.name.rpartition(".")[2]]) for picture in pictures]


def _kept(picture: inspect_pictures.Picture, out: Path, text: str) -> Shown:
    """Write a picture as a file, and return it as the page shows it."""
    with whole_file(out / PICTURES / f"{picture.name}.png") as file:
        file.write(picture.png)
    return Shown(picture.title, Markup(picture.svg), text)  # the SVG is our own
