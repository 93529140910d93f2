"""A page from a template: one HTML file with its figures and their library inside, whole or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.files import whole_file
from reports import figures, notation

TEMPLATES = Path(__file__).parent / "templates"


def html(template: str, context: dict[str, Any], panels: list[figures.Panel]) -> str:
    """Return a template's page; `panels` are the figures that it draws."""
    text = _safe(figures.to_json(panels))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["write"] = notation
    page = environment.get_template(template)
    return page.render(**context, specs=text, plotly=Markup(figures.library()))


def embedded(value: Any) -> Markup:
    """Return a JSON value as what stands in a script element of type application/json."""
    return _safe(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _safe(text: str) -> Markup:
    """Escape what could end a script element or start a comment in it, and nothing else."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
