"""Write the page of a study: what was tried, what it chose, what mattered; one file, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import SpecError
from reports import figures, pages, tuning, tuning_figures


def write(out: Path, name: str) -> Path:
    """Write OUT/report/NAME-study/report.html from OUT/studies/NAME.json; return its path."""
    study = tuning.read_study(out, name)
    if study is None:
        raise SpecError(
            f"{out / 'studies' / name}.json: no findings of this version; run the study"
        )
    panels = panels_of(study)
    drawn = [panel for own in panels.values() for panel in own]
    context: dict[str, Any] = {
        "study": study,
        "tuned": tuning.tuned_arms(study),
        "panels": panels,
    }
    folder = out / "report" / f"{name}-study"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    pages.write(path, pages.html("study.html.jinja", context, drawn))
    return path


def panels_of(study: Any) -> dict[str, list[figures.Panel]]:
    """Return the drawings by `STUDY.ARM`; an arm without a complete trial has none."""
    drawn = dict(tuning_figures.panels(study))
    return {f"{study['name']}.{arm}": drawn.get(arm, []) for arm in study["arms"]}
