"""A page from a template: one HTML file with its figures and their library inside, whole or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.files import whole_file
from reports import figures, notation

TEMPLATES = Path(__file__).parent / "templates"


def html(template: str, context: dict[str, Any], panels: list[figures.Panel]) -> str:
    """Return a template's page; `panels` are the figures that it draws."""
    text = figures.to_json(panels)
    # In a script element only these could end it or start a comment.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["write"] = notation
    page = environment.get_template(template)
    return page.render(**context, specs=Markup(text), plotly=Markup(figures.library()))


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
