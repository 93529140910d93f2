"""Write the report of an ablation: one HTML file that needs no network, Markdown, and a CSV.

Everything a reader might doubt is in the file: run ids under the numbers, costs, runs that are left
out and why, versions, licences. The price of one file is its size, 4.8 MB of which are plotly.js.
The same records give the same bytes; no clock is read.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import fidelity, figures, measures, notation, pages, palette, tables, tuning
from reports.arms import arms_table
from reports.headline import headline
from reports.load import Evidence, load
from reports.noise import noise_floors
from reports.oracle import oracle
from reports.study_page import panels_of

_SPLITS = ("train", "probe", "tuning", "heldout")
_ENVIRONMENT = ("device", "device_name", "threads", "precision", "git_commit", "git_dirty")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


class ReportPaths(NamedTuple):
    """The files of a report."""

    html: Path
    markdown: Path
    csv: Path
    """Final evaluations and costs: a row for each arm, seed, split and domain."""
    arms: Path
    """The arms table with every number behind a verdict."""
    figures: Path
    """Every figure's data and layout, as Plotly's own JSON by id."""


def build(out_dir: Path, name: str | None = None) -> ReportPaths:
    """Write OUT/report/NAME/ for one ablation; the default is the most recently updated one."""
    return write(load(Path(out_dir), name))


def write(evidence: Evidence) -> ReportPaths:
    """Write OUT/report/NAME/ for the ablation whose records were read."""
    context = contents(evidence)
    folder = evidence.out_dir / "report" / evidence.name
    folder.mkdir(parents=True, exist_ok=True)
    names = ("report.html", "report.md", "results.csv", "arms.csv", "figures.json")
    paths = ReportPaths(*(folder / name for name in names))
    pages.write(paths.html, pages.html("report.html.jinja", context, _panels(context)))
    pages.write(paths.markdown, _render_markdown(context))
    pages.write(paths.csv, tables.results_table(evidence).to_csv(index=False))
    pages.write(paths.arms, pd.DataFrame(context["arms"]).to_csv(index=False))
    pages.write(paths.figures, figures.to_json(_panels(context)))
    return paths


def contents(evidence: Evidence) -> dict[str, Any]:
    """Return all that a template may show, as plain values."""
    header = evidence.header
    stacked, fixed = figures.weights(evidence)
    return {
        "name": evidence.name,
        "title": header.get("title") or evidence.name,
        "header": header,
        "primary": header["primary"],
        "primary_name": tables.metric_name(evidence, header["primary"]),
        "target_name": tables.metric_name(evidence, "target"),
        "others": evidence.others,
        "warnings": header.get("warnings") or [],
        "headline": headline(evidence),
        "margin": measures.margin(evidence),
        "arms": _rows(arms_table(evidence)),
        "oracle": oracle(evidence),
        "noise": noise_floors(evidence),
        "domains": _by_domain(tables.domains_table(evidence)),
        "repetitions": _by_domain(tables.repetitions_table(evidence)),
        "costs": _rows(tables.costs_table(evidence)),
        "borrowers": notation.listed(measures.borrowers(evidence)),
        "problems": _rows(tables.problems_table(evidence)),
        "run_ids": _run_ids(evidence),
        "settings": _rows(tables.settings_table(evidence)),
        "environment": environment(evidence),
        "corpus": corpus(evidence),
        "domain_keys": palette.domain_keys(evidence),
        "trained": measures.trained_domains(evidence),
        "arm_keys": palette.arm_keys(evidence),
        "weight_panels": stacked,
        "fixed_weights": fixed,
        "difference_panels": figures.differences(evidence),
        "curve_panels": figures.curves(evidence),
        "overhead_panels": figures.overhead(evidence),
        "fidelity": _rows(fidelity.fidelity_table(evidence)),
        "fidelity_panels": figures.fidelity(evidence),
        "account_colors": palette.ACCOUNT_COLORS,
        **_tuning(evidence),
    }


def _tuning(evidence: Evidence) -> dict[str, Any]:
    """Return what the studies found that arms of this ablation come from."""
    studies = tuning.studies(evidence)
    by_arm = {key: own for study in studies for key, own in panels_of(study).items()}
    return {
        "promoted": tuning.promoted(evidence),
        "tuned": [arm for study in studies for arm in tuning.tuned_arms(study)],
        "tuned_by_arm": by_arm,
        "study_panels": [panel for own in by_arm.values() for panel in own],
    }


def environment(evidence: Evidence) -> list[tuple[str, list[str]]]:
    """List what the runs ran on; more than one value of an entry means a mixed ablation."""
    found: dict[str, list[str]] = {}
    for header in evidence.run_headers.values():
        facts = {
            "parameters": notation.whole(header.get("num_parameters", math.nan)),
            "tokens per step": notation.whole(header.get("tokens_per_step", math.nan)),
            **{key.replace("_", " "): header.get(key) for key in _ENVIRONMENT},
            **(header.get("versions") or {}),
        }
        for key, value in facts.items():
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    return list(found.items())


def corpus(evidence: Evidence) -> list[dict[str, Any]]:
    """List each domain's licence, source and sizes as far as the corpus manifest tells them."""
    path = evidence.out_dir / "corpora" / str(evidence.header.get("corpus_id")) / "manifest.json"
    try:
        domains = json.loads(path.read_bytes())["domains"]
        return [_corpus_row(domain, entry) for domain, entry in domains.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # a report must not depend on a cache that may have been cleared


def _corpus_row(domain: str, entry: dict[str, Any]) -> dict[str, Any]:
    splits = entry.get("splits") or {}
    licence = entry.get("license") or ""
    package = [str(entry[key]) for key in ("package", "version") if entry.get(key)]
    return {
        "domain": domain,
        "license": ", ".join(licence) if isinstance(licence, list) else str(licence),
        "source": " ".join(package) or str(entry.get("kind", "")),
        "splits": [(split, splits.get(split) or {}) for split in _SPLITS],
    }


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _by_domain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Group rows by domain, with a cell for each arm in the order of the frame."""
    groups = frame.groupby("domain", sort=False)
    return [{**rows.iloc[0].to_dict(), "cells": _rows(rows)} for _, rows in groups]


def _run_ids(evidence: Evidence) -> list[tuple[str, list[tuple[int, list[tuple[str, str]]]]]]:
    """Nest the runs behind the numbers: arm, then seed, then (role, run id).

    What a control looks at is another arm's and stands there with its roles; here it is named.
    """
    table = tables.run_ids_table(evidence)
    nested = []
    for arm, rows in table.groupby("arm", sort=False):
        cells = {run["seed"]: run for run in evidence.header["arms"][str(arm)]["runs"]}
        seeds = [
            (
                int(seed),
                [
                    *zip(runs["role"], runs["run_id"], strict=True),
                    *(("another arm's", run_id) for run_id in cells[int(seed)].get("shown") or ()),
                ],
            )
            for seed, runs in rows.groupby("seed")
        ]
        nested.append((str(arm), seeds))
    return nested


def _panels(context: dict[str, Any]) -> list[figures.Panel]:
    return [panel for key, value in context.items() if key.endswith("_panels") for panel in value]


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
    page = environment.get_template("report.md.jinja").render(**context)
    return re.sub(r"\n{3,}", "\n\n", page)


def escape_markdown(value: object) -> str:
    """Escape a value so that Markdown shows it as it is, on one line and in one table cell."""
    if isinstance(value, Markup):
        return value
    return _MARKDOWN.sub(r"\\\1", " ".join(str(value).split("\n")))
