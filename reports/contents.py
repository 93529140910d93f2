"""All that a report shows, as plain values: for HTML, Markdown, pictures and tables alike."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import (
    curve_figures,
    fidelity,
    figures,
    measures,
    notation,
    palette,
    provenance,
    tables,
    tuning,
    weight_figures,
)
from reports.arms import arms_table
from reports.cautions import cautions
from reports.differences import differences
from reports.equal_compute import is_waiting
from reports.headline import headline
from reports.load import Evidence
from reports.noise import noise_floors
from reports.oracle import oracle
from reports.pareto import pareto
from reports.probe_gap import gaps
from reports.study_page import panels_of


def contents(evidence: Evidence) -> dict[str, Any]:
    """Return all that a template may show, as plain values."""
    header = evidence.header
    stacked, fixed = weight_figures.weights(evidence)
    return {
        "name": evidence.name,
        "title": header.get("title") or evidence.name,
        "header": header,
        "primary": header["primary"],
        "primary_name": tables.metric_name(evidence, header["primary"]),
        "target_name": tables.metric_name(evidence, "target"),
        "others": evidence.others,
        "warnings": header.get("warnings") or [],
        "cautions": cautions(evidence),
        "headline": headline(evidence),
        "margin": measures.margin(evidence),
        "arms": _rows(arms_table(evidence)),
        "lowest": tables.lowest(evidence),
        "oracle": oracle(evidence),
        "noise": noise_floors(evidence),
        "domains": _by_domain(tables.domains_table(evidence)),
        "repetitions": _by_domain(tables.repetitions_table(evidence)),
        "costs": _rows(tables.costs_table(evidence)),
        "borrowers": notation.listed(measures.borrowers(evidence)),
        "problems": _rows(tables.problems_table(evidence)),
        "run_ids": provenance.run_ids(evidence),
        "gaps": gaps(evidence),
        "is_waiting": is_waiting(evidence),
        "differences": differences(evidence),
        "settings": _rows(tables.settings_table(evidence)),
        "environment": provenance.environment(evidence),
        "corpus": provenance.corpus(evidence),
        "domain_keys": palette.domain_keys(evidence),
        "trained": measures.trained_domains(evidence),
        "arm_keys": palette.arm_keys(evidence),
        "weight_panels": stacked,
        "fixed_weights": fixed,
        "difference_panels": figures.differences(evidence),
        "spending_panels": curve_figures.spending(evidence),
        "pareto_panels": pareto(evidence),
        "curve_panels": curve_figures.curves(evidence),
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


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _by_domain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Group rows by domain, with a cell for each arm in the order of the frame."""
    groups = frame.groupby("domain", sort=False)
    return [{**rows.iloc[0].to_dict(), "cells": _rows(rows)} for _, rows in groups]


def panels(context: dict[str, Any]) -> list[figures.Panel]:
    """Return every drawing of the page, in the order of the contents."""
    return [panel for key, value in context.items() if key.endswith("_panels") for panel in value]
